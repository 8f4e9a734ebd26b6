"""The paper's tables and figures from a study at its protocol, with the published numbers.

    python studies/paper/report.py STORAGE [FOLDER] [--name ARCH-DATA-paper]

STORAGE is the Optuna storage URL of a `nsopt study --preset paper` of a network and a data set of
the paper. Writes FOLDER/paper.html.

Like the paper, this page reports the best test epoch of every run; nothing is selected by it. What
was not run comes from the published numbers alone.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])  # it also runs as a file

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from nsopt.errors import NsoptError
from nsopt.methods.registry import LAW_OF_SEARCH
from nsopt.reports.figures import (
    collect_points,
    draw_accuracy,
    method_styles,
    new_figure,
)
from nsopt.reports.page import fragment, render_template
from nsopt.reports.results import Results, read_results
from nsopt.reports.tables import format_measured, with_deviation
from nsopt.scaling.metric import PARAMS
from nsopt.session.presets import get_preset
from nsopt.storage.schema import SEARCH
from studies.paper.published import (
    PublishedLine,
    PublishedTable,
    published_accuracies,
    published_data,
    published_lines,
    published_tables,
    published_widths,
)

_HERE = Path(__file__).parent
_PAGE = "paper.html"
_PRESET = "paper"
_BEST = "test_score_best_epoch"
_PUBLISHED_P = 10  # pre-training epochs of published methods without a P in their name
_ACCURACY_TITLE = "best-epoch test accuracy (%)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of a stored study; an error is one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("storage", help="Optuna storage URL, such as sqlite:///study.db")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="for paper.html")
    parser.add_argument("--name", help="the study as ARCH-DATA-paper, if several are stored")
    options = parser.parse_args(arguments)
    try:
        results = read_results(options.storage, options.name)
        print(write_paper(results, options.folder))
    except NsoptError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def write_paper(results: Results, folder: Path) -> Path:
    """Write `paper.html`; return its path.

    Raises:
        NsoptError: if the study does not follow the paper, or the paper has no such study.
    """
    data = published_data(results.task.arch, results.task.data)
    if results.settings.get("preset") != _PRESET:
        raise NsoptError(f"{results.name} does not follow the paper: run a study with its preset")
    if data is None:
        raise NsoptError(f"the paper has no {results.task.arch} on {results.task.data}")
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / _PAGE
    page.write_text(render_paper(results, data), encoding="utf-8")
    return page


def render_paper(results: Results, data: str) -> str:
    """Return the page as HTML. The images are a copy of the published data set `data`."""
    arch = results.task.arch
    own = results.outcomes.assign(
        method=[_find_published_name(m, results) for m in results.outcomes["method"]]
    )
    parts = []
    for part in published_tables(arch, data):
        compared = results.outcomes[own["method"].isin(part.methods)]
        figures = _draw_accuracies(replace(results, outcomes=compared), part, data)
        rows = table_rows(part.methods, own, published_accuracies(arch, data))
        parts.append(
            {
                "names": part,
                "run": [row for row in rows if row["n"]],
                "published": [row for row in rows if not row["n"]],
                "figures": {
                    name: fragment(figure, name.replace(" ", "-"))
                    for name, figure in figures.items()
                },
            }
        )
    epochs = get_preset(_PRESET, data).settings.training.epochs
    descents = {"here": _list_own_widths(results), "published": published_widths(arch, data)}
    return render_template(
        _PAGE,
        f"{results.name} and the paper",
        _HERE,
        results=results,
        published_data=data,
        published_epochs=epochs,
        is_full=results.settings["training"]["epochs"] >= epochs,
        parts=parts,
        law=SEARCH in results.searches and fragment(draw_law(results), "paper-law"),
        descents={
            name: fragment(draw_descent(widths), f"descent-{name}")
            for name, widths in descents.items()
            if not widths.empty
        },
    )


def table_rows(
    methods: Mapping[str, str], own: pd.DataFrame, published: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return a row per ratio and method.

    Args:
        methods: as in `PublishedTable`.
        own: outcomes, with methods by their published names.
    """
    rows = []
    for ratio in sorted({*published["width_ratio"], *own["ratio"].dropna()}):
        for method, name in methods.items():
            there = published[(published["width_ratio"] == ratio) & (published["method"] == method)]
            here = own[(own["ratio"] == ratio) & (own["method"] == method)]
            here = here[here["metric"] == PARAMS.name]
            if there.empty and here.empty:
                continue
            rows.append(
                {"ratio": ratio, "name": name} | _format_published(there) | _format_own(here)
            )
    return rows


def draw_law(results: Results) -> go.Figure:
    """Draw the record of the last iteration, and its law as lines, by layer (Figure 2)."""
    last, layers = results.searches[SEARCH][-1], results.task.layer_names
    axes = [{"title": {"text": f"{name}, log scale"}, "type": "log"} for name in ("tau", "width")]
    figure = new_figure(xaxis=axes[0], yaxis=axes[1])
    tau, fitted = last.record.tau, last.law.widths(last.record.tau.astype(float))
    places = [index / max(1, len(layers) - 1) for index in range(len(layers))]
    for index, colour in enumerate(sample_colorscale("Viridis", places)):
        shared = {"x": tau, "legendgroup": layers[index], "name": layers[index]}
        marker, recorded = {"color": colour, "size": 5}, last.record.widths[:, index]
        figure.add_scatter(y=recorded, mode="markers", marker=marker, showlegend=False, **shared)
        figure.add_scatter(y=fitted[:, index], mode="lines", line={"color": colour}, **shared)
    return figure


def draw_descent(widths: pd.DataFrame) -> go.Figure:
    """Draw widths at the original network's size by iteration, a line per layer (Figure 3)."""
    layers = list(widths.columns)
    places = [index / max(1, len(layers) - 1) for index in range(len(layers))]
    figure = new_figure(
        xaxis={"title": {"text": "iteration"}, "dtick": 1},
        yaxis={"title": {"text": "width"}, "rangemode": "tozero"},
    )
    for layer, colour in zip(layers, sample_colorscale("Viridis", places), strict=True):
        figure.add_scatter(
            x=list(widths.index),
            y=widths[layer].tolist(),
            mode="lines+markers",
            line={"color": colour},
            marker={"size": 5},
            name=layer,
            hovertemplate=f"{layer}, iteration %{{x}}: %{{y}}<extra></extra>",
        )
    return figure


def _find_published_name(method: str, results: Results) -> str:
    """Return the published name of a method: with its iteration, and with P unless that is 10."""
    law = LAW_OF_SEARCH.name
    if not method.startswith(law):
        return method
    iteration = method.removeprefix(law) or f"-iter{len(results.searches.get(SEARCH, ()))}"
    pretraining = results.settings["search"]["pretrain_epochs"]
    return law + ("" if pretraining == _PUBLISHED_P else f"-P{pretraining}") + iteration


def _format_published(rows: pd.DataFrame) -> dict[str, str]:
    if rows.empty:
        return {"published": "", "published_last": "", "published_n": ""}
    row = rows.iloc[0]
    last = row["last_epoch_test_mean"]
    return {
        "published": with_deviation(row["best_test_mean"], row["best_test_std"]),
        "published_last": "" if pd.isna(last) else f"{last:.2f}",
        "published_n": str(row["seeds"]),
    }


def _format_own(rows: pd.DataFrame) -> dict[str, str]:
    if rows.empty:
        return {"params": "", "latency": "", "best": "", "last": "", "n": ""}
    means = rows.select_dtypes("number").mean()
    latency = format_measured(means.to_dict())
    return {
        "params": f"{means['params'] / 1e6:.2f} M",
        "latency": latency,
        "best": with_deviation(means[_BEST], rows[_BEST].std()),
        "last": with_deviation(means["test_score"], rows["test_score"].std()),
        "n": str(len(rows)),
    }


def _draw_accuracies(results: Results, part: PublishedTable, data: str) -> dict[str, go.Figure]:
    """Draw accuracy against parameters, with published lines, and against measured latency."""
    lines = [
        line._replace(label=f"{part.methods[line.method]}, published")
        for line in published_lines(results.task.arch, data, tuple(part.methods))
    ]
    if not collect_points(results, PARAMS.name, _BEST):
        return {}
    figures = {part.by_size: _add_lines(draw_accuracy(results, score=_BEST), lines)}
    if results.outcomes["latency_ms"].notna().any():
        title = f"latency ({results.batch_unit})"
        figures[part.by_latency] = draw_accuracy(results, "latency_ms", title, _BEST)
    for figure in figures.values():
        figure.update_yaxes(title={"text": _ACCURACY_TITLE})
    return figures


def _add_lines(figure: go.Figure, lines: Sequence[PublishedLine]) -> go.Figure:
    """Add published accuracies as dotted lines."""
    styles = method_styles([line.method for line in lines])
    for line in lines:
        style = styles[line.method]
        figure.add_scatter(
            x=line.params,
            y=line.accuracy,
            mode="lines+markers",
            line={"color": style.colour, "dash": "dot"},
            marker={"symbol": f"{style.symbol}-open", "size": 9},
            name=line.label,
            text=line.text,
            hovertemplate="%{text}<extra></extra>",
        )
    return figure


def _list_own_widths(results: Results) -> pd.DataFrame:
    """Return a row per iteration of the search by filters, a column per layer."""
    iterations = results.searches.get(SEARCH, [])
    return pd.DataFrame(
        [iteration.widths for iteration in iterations],
        index=range(1, len(iterations) + 1),
        columns=list(results.task.layer_names),
    )


if __name__ == "__main__":
    main()
