"""The report's tables and CSV files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nsopt.files import write_whole
from nsopt.methods.registry import method_label
from nsopt.reports.results import Results
from nsopt.scaling.metric import LATENCY, METRICS, Joint, format_ms, get_metric, short_number
from nsopt.scaling.record import Iteration, describe_reach
from nsopt.storage.schema import DENSE, price_of_search, width_key
from nsopt.storage.trials import size_label

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def with_ordered_metrics(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return a copy whose metrics sort as in reports: parameters, MACs, latency, several."""
    joint = [m for m in map(get_metric, outcomes["metric"].unique()) if isinstance(m, Joint)]
    joint.sort(key=lambda metric: [(part.name, limit) for part, limit in metric.limits])
    order = [*METRICS, *(metric.name for metric in joint)]
    metrics = pd.Categorical(outcomes["metric"], order, ordered=True)
    return outcomes.assign(metric=metrics)


def summary(results: Results) -> pd.DataFrame:
    """Return one row per metric, budget and method: n, means and deviations over seeds.

    Costs and latencies are means, too: widths of some methods differ between seeds. Standard
    deviations are of the sample (n - 1), and NaN for a single seed.
    """
    frame = with_ordered_metrics(results.outcomes)
    frame["method"] = pd.Categorical(frame["method"], results.methods, ordered=True)
    frame = frame.assign(final=frame[results.final])
    grouped = frame.groupby(["metric", "budget", "method"], observed=True)
    table = grouped.agg(
        ratio=("ratio", "first"),
        n=("seed", "count"),
        **{name: (name, "mean") for name in ("params", "macs", "cost", "latency_ms")},
        val_mean=("score", "mean"),
        val_std=("score", "std"),
        final_mean=("final", "mean"),
        **{f"test_{how}": ("test_score", how) for how in ("mean", "std", "min", "max")},
        test_best_epoch_mean=("test_score_best_epoch", "mean"),
        seconds=("seconds", "mean"),
        feasible=("feasible", "all"),
        **{name: (name, "first") for name in ("beyond_record", "binding", "cost_latency")},
    )
    return table.reset_index().astype({"metric": str})


def without_tests(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Return a table without the columns of a test, which are empty if the task has none."""
    return table if results.task.has_test else table.filter(regex="^(?!test_)")


def summary_rows(results: Results) -> list[dict[str, Any]]:
    """Return the rows of `summary`, each with its cells as text.

    These are its size, the name of its method, its latency as measured and with the predicted one,
    which budget binds, how far it is outside the record, and its scores of validation and test.
    """
    rows: list[dict[str, Any]] = summary(results).to_dict("records")
    for row in rows:
        row["size"] = size_of(row)
        row["name"] = method_label(row["method"])
        measured, predicted = format_measured(row), predicted_latency(row)
        row["latency"] = f"{measured} ({predicted} predicted)" if predicted else measured
        row["binds"] = name_binding(row)
        factor = row["beyond_record"]
        row["beyond"] = "" if pd.isna(factor) else f"at {describe_reach(factor)}"
        for part in ("val", "test"):
            row[part] = with_deviation(row[f"{part}_mean"], row[f"{part}_std"])
    return rows


_SHORT = ("size", "method", "n", "params", "MACs", "ms", "predicted", "binds", "test")


def short_rows(results: Results) -> list[dict[str, str]]:
    """Return the rows of `summary` as text for a narrow table, without empty columns."""
    task = results.task
    validation, test = (task.score_name, "test") if task.score_name else ("val %", "test %")
    if validation in _SHORT:
        validation += " (validation)"
    rows = [
        {
            "size": row["size"],
            "method": row["method"],
            "n": str(row["n"]),
            "params": short_number(row["params"]),
            "MACs": short_number(row["macs"]),
            "ms": format_measured(row),
            "predicted": predicted_latency(row),
            "binds": row["binds"],
            **({test: row["test"]} if task.has_test else {}),
            validation: row["val"],
        }
        for row in summary_rows(results)
    ]
    filled = {name for row in rows for name, text in row.items() if text}
    return [{name: text for name, text in row.items() if name in filled} for row in rows]


def titled_rows(results: Results) -> list[dict[str, str]]:
    """Return `short_rows` for pages: with labels of methods, and the unit of latencies."""
    titles = {"ms": results.latency_unit}
    return [
        {titles.get(name, name): text for name, text in row.items()}
        | {"method": method_label(row["method"])}
        for row in short_rows(results)
    ]


def size_of(row: Mapping[str, Any]) -> str:
    """Format the budget of a row of results."""
    ratio = None if pd.isna(row["ratio"]) else row["ratio"]
    return size_label(row["budget"], get_metric(row["metric"]), ratio)


def format_measured(row: Mapping[str, Any], unit: str = "") -> str:
    """Format the measured latency of a row, in milliseconds, with its unit if one is given."""
    measured = row["latency_ms"]
    return "not timed" if pd.isna(measured) else f"{format_ms(measured)} {unit}".rstrip()


def predicted_latency(row: Mapping[str, Any]) -> str:
    """Format the predicted latency of a row if its budget is one of latency; else ""."""
    if row["method"] == DENSE:  # it lends the others its time
        return ""
    predicted = row["cost"] if row["metric"] == LATENCY.name else row["cost_latency"]
    return "" if predicted is None or pd.isna(predicted) else format_ms(predicted)


def name_binding(row: Mapping[str, Any]) -> str:
    """Return what the budget limits that stops a row's network; "" for a single budget."""
    return "" if pd.isna(row["binding"]) else get_metric(row["binding"]).noun


def with_deviation(mean: float, deviation: float) -> str:
    """Format `79.63 ± 0.04`, or only the mean if there is no deviation."""
    return f"{mean:.2f}" if pd.isna(deviation) else f"{mean:.2f} ± {deviation:.2f}"


def name_runtime(runtime: str, torch_version: str) -> str:
    """Name what ran networks: `torch 2.13.0`, `onnxruntime 1.31.1` or `module:function`."""
    return f"torch {torch_version}" if runtime == "torch" else runtime


def share(part: float | None) -> str:
    """Format `3%`, or "" if unknown."""
    return "" if pd.isna(part) else f"{part:.0%}"


def search_label(kind: str) -> str:
    price = price_of_search(kind)
    return "the search" if price is None else f"the search by {price}"


def list_descent(iterations: Sequence[Iteration]) -> list[dict[str, str]]:
    """Return one row per iteration of architecture descent, as text."""
    return [
        {
            "iteration": str(number),
            "pruned from": width_key(iteration.start_widths),
            "record rows": str(len(iteration.record.tau)),
            "lowest r2": f"{iteration.law.r2.min():.3g}",
            "proposed at the original size": width_key(iteration.widths),
            "largest change": f"{iteration.change:.0%}",
            "seconds": f"{iteration.seconds:.0f}",
        }
        for number, iteration in enumerate(iterations, start=1)
    ]


def write_csv(results: Results, folder: Path) -> list[str]:
    """Write the report's numbers, one file per table; return the names of the files."""
    outcomes = results.outcomes.assign(widths=results.outcomes["widths"].map(width_key))
    tables = {"outcomes": outcomes, "summary": summary(results), "epochs": results.curves}
    if not results.latencies.empty:
        tables["latencies"] = results.latencies
    if results.searches:
        tables |= _list_iterations(results)
    for name, table in tables.items():
        write_table(without_tests(table, results), folder / f"{name}.csv")
    return [f"{name}.csv" for name in tables]


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV file. Text that a spreadsheet would run as a formula begins with an apostrophe.

    Names of layers and methods come from networks and plug-ins of others.
    """
    quoted = table.rename(columns=_quote_formula).map(_quote_formula)
    write_whole(path, quoted.to_csv(index=False, lineterminator="\n").encode())


def _quote_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell


def _list_iterations(results: Results) -> dict[str, pd.DataFrame]:
    """Return the records and the laws of all iterations of all searches."""
    layers, keys = list(results.task.layer_names), ["search", "iteration"]
    records, laws = {}, {}
    for search, iterations in results.searches.items():
        for number, iteration in enumerate(iterations, start=1):
            record, law = iteration.record, iteration.law
            frame = pd.DataFrame(record.widths, columns=layers)
            frame.insert(0, "tau", record.tau)
            records[search, number] = frame
            columns = {"layer": layers, "alpha": law.alpha, "beta": law.beta, "r2": law.r2}
            laws[search, number] = pd.DataFrame(columns)
    named = {"record": records, "laws": laws}
    return {k: pd.concat(frames, names=keys).reset_index(keys) for k, frames in named.items()}
