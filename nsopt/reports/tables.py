"""The report's tables and CSV files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nsopt.files import write_whole
from nsopt.reports.results import Results
from nsopt.scaling.metric import LATENCY, METRICS, Joint, format_ms, get_metric, short_number
from nsopt.storage.schema import DENSE, NetworkRow, width_key
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


_SHORT = ("size", "method", "n", "params", "MACs", "ms", "predicted", "note", "test")


def short_rows(results: Results) -> list[dict[str, str]]:
    """Return the rows of `summary` as text, without empty columns.

    *note* says that the budget is exceeded, or which of several budgets binds.
    """
    task = results.task
    validation, test = (task.score_name, "test") if task.score_name else ("val %", "test %")
    if validation in _SHORT:
        validation += " (validation)"
    rows = [
        {
            "size": size_of(row),
            "method": row["method"],
            "n": str(row["n"]),
            "params": short_number(row["params"]),
            "MACs": short_number(row["macs"]),
            "ms": format_measured(row),
            "predicted": predicted_latency(row),
            "note": _describe_limits(row),
            **({test: with_deviation(row["test_mean"], row["test_std"])} if task.has_test else {}),
            validation: with_deviation(row["val_mean"], row["val_std"]),
        }
        for row in summary(results).to_dict("records")
    ]
    filled = {name for row in rows for name, text in row.items() if text}
    return [{name: text for name, text in row.items() if name in filled} for row in rows]


def _describe_limits(row: Mapping[str, Any]) -> str:
    parts = [] if row["feasible"] else ["above budget"]
    if not pd.isna(row["binding"]):
        parts.append(f"bound by {get_metric(row['binding']).noun}")
    return ", ".join(parts)


def size_of(row: Mapping[str, Any]) -> str:
    """Format the budget of a row of results."""
    ratio = None if pd.isna(row["ratio"]) else row["ratio"]
    return size_label(row["budget"], get_metric(row["metric"]), ratio)


def format_measured(row: Mapping[str, Any]) -> str:
    """Format the measured latency of a row, in milliseconds."""
    measured = row["latency_ms"]
    return "not timed" if pd.isna(measured) else format_ms(measured)


def predicted_latency(row: Mapping[str, Any]) -> str:
    """Format the predicted latency of a row if its budget is one of latency; else ""."""
    if row["method"] == DENSE:  # it lends the others its time
        return ""
    predicted = row["cost"] if row["metric"] == LATENCY.name else row["cost_latency"]
    return "" if predicted is None or pd.isna(predicted) else format_ms(predicted)


def with_deviation(mean: float, deviation: float) -> str:
    """Format `79.63 ± 0.04`, or only the mean if there is no deviation."""
    return f"{mean:.2f}" if pd.isna(deviation) else f"{mean:.2f} ± {deviation:.2f}"


def format_networks(rows: Sequence[NetworkRow], score_name: str) -> list[dict[str, str]]:
    """Return the rows of a table, all values as text, the trained network first.

    In brackets are points of the score, and shares of costs, compared with the trained network.
    Columns without any value are left out.

    Args:
        score_name: of the validation; empty for the accuracy of images.
    """
    whole = rows[0]
    table = [
        {
            "budget": row.budget,
            "widths by": "" if row.widths_by == DENSE else row.widths_by,
            "agreement %": "" if row.agreement is None else f"{row.agreement:.1f}",
            **_format_scores(row, whole, score_name),
            "ms": _compare(format_ms, row.latency_ms, whole.latency_ms),
            "params": _compare(short_number, row.params, whole.params),
            "MACs": _compare(short_number, row.macs, whole.macs),
            "trained": "" if row.epochs == row.planned else f"{row.epochs} of {row.planned} epochs",
            "files": row.files,
        }
        for row in rows
    ]
    filled = [name for name in table[0] if any(row[name] for row in table)]
    return [{name: row[name] for name in filled} for row in table]


def _format_scores(row: NetworkRow, whole: NetworkRow, score_name: str) -> dict[str, str]:
    if row.test_score is None or whole.test_score is None:
        return {score_name or "val %": _show_change(row.score, whole.score)}
    return {
        "test" if score_name else "test %": _show_change(row.test_score, whole.test_score),
        score_name or "val %": f"{row.score:.4g}"
        if row.error is None
        else f"{row.score:.2f} ±{row.error:.2g}",
    }


def _show_change(value: float, original: float) -> str:
    shown = f"{value:.4g}"
    return shown if shown == f"{original:.4g}" else f"{shown} ({value - original:+.2g})"


def _compare(show: Callable[[float], str], cost: float | None, whole: float | None) -> str:
    """Return a cost, and in brackets its share of another one if it differs."""
    if cost is None:
        return ""
    return show(cost) if cost == whole or whole is None else f"{show(cost)} ({cost / whole:.2f}x)"


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
