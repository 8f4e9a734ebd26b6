"""The three figures of a report: scores against a cost, against latency, and widths by layer.

Colours are Okabe and Ito's, which people with any colour vision can distinguish; markers
distinguish methods without colour. Text and grid are grey on a transparent background, for light
and dark pages. The Pareto front selects networks, so it uses validation scores.
"""

from collections.abc import Sequence
from functools import cache
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from nsopt.methods.registry import BASELINE, method_label, report_order
from nsopt.reports.results import Results
from nsopt.reports.tables import size_of, summary, with_ordered_metrics
from nsopt.storage.schema import width_key

_TEXT = "#6e7781"
_GRID = "rgba(128, 128, 128, 0.25)"
_PANELS_IN_A_ROW, _PANEL_HEIGHT = 2, 320


class MethodStyle(NamedTuple):
    """How a method looks in figures: a colour as #rrggbb, and a symbol of Plotly."""

    colour: str
    symbol: str


_COLOURS = (
    *("#666666", "#e69f00", "#009e73", "#d55e00", "#0072b2", "#6a3d9a", "#b2182b"),
    *("#cc79a7", "#56b4e9", "#882255"),
)
_SYMBOLS = (
    *("circle", "square", "diamond", "triangle-up", "star", "hexagram", "star-diamond"),
    *("triangle-down", "cross", "x", "pentagon", "hexagon", "hourglass", "bowtie", "octagon"),
)


def method_styles(names: Sequence[str]) -> dict[str, MethodStyle]:
    """Return a distinct style for each method; built-in methods look the same in all reports."""
    looks = map(MethodStyle, cycle(_COLOURS), cycle(_SYMBOLS))
    return dict(zip(dict.fromkeys([*report_order(), *names]), looks, strict=False))


def new_figure(**layout: Any) -> go.Figure:
    return go.Figure(layout={"template": _make_template()} | layout)


@cache
def _make_template() -> go.layout.Template:
    axis = {"gridcolor": _GRID, "linecolor": _GRID, "zeroline": False, "automargin": True}
    return go.layout.Template(
        layout={
            "xaxis": axis,
            "yaxis": axis,
            "paper_bgcolor": "rgba(0, 0, 0, 0)",
            "plot_bgcolor": "rgba(0, 0, 0, 0)",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": _TEXT},
            "margin": {"l": 60, "r": 44, "t": 30, "b": 60},
            "height": 460,
            "hoverlabel": {"align": "left"},
            "modebar": {"bgcolor": "rgba(0, 0, 0, 0)", "color": _TEXT, "orientation": "v"},
            "legend": {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0},
        }
    )


def log_axis(title: str) -> dict[str, Any]:
    """Return a logarithmic axis with ticks such as 500k and 1.5M, or 0.05 of milliseconds."""
    ticks = "~r" if title.startswith("latency") else "~s"
    return {"title": {"text": f"{title}, log scale"}, "type": "log", "tickformat": ticks}


class MethodPoints(NamedTuple):
    """Outcomes of one method: x, y and text of trials, and of means over seeds, by x, with the
    deviation of y."""

    method: str
    style: MethodStyle
    trials: pd.DataFrame
    means: pd.DataFrame


def collect_points(results: Results, x: str, y: str) -> list[MethodPoints]:
    """Return two columns of the outcomes, by method."""
    styles, points = method_styles(results.methods), []
    for method in results.methods:
        trials = results.outcomes[results.outcomes["method"] == method].dropna(subset=x)
        if trials.empty:
            continue
        text = [
            f"{_name(row)}, seed {row['seed']}<br>widths {width_key(row['widths'])}"
            for row in trials.to_dict("records")
        ]
        trials = trials.assign(x=trials[x], y=trials[y], text=text)
        sizes = trials.groupby(["metric", "budget"])
        means = sizes.agg(x=("x", "mean"), y=("y", "mean"), deviation=("y", "std")).fillna(0.0)
        means["text"] = [
            f"{_name(rows.iloc[0].to_dict())}, mean of {len(rows)}" for _, rows in sizes
        ]
        means = means.sort_values("x", kind="stable")
        points.append(MethodPoints(method, styles[method], trials, means))
    return points


def _name(row: dict[Any, Any]) -> str:
    return f"<b>{method_label(row['method'])}, {size_of(row)}</b>"


def find_front(results: Results) -> pd.DataFrame:
    """Return the rows of the summary that no other beats in latency and validation score."""
    table = summary(results).dropna(subset="latency_ms")
    front = table[pareto_mask(table["latency_ms"].to_numpy(), table["val_mean"].to_numpy())]
    return front.sort_values("latency_ms")


def pareto_mask(cost: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points are on the Pareto front of low cost (N,) and high value (N,): bool (N,).

    A point is on it if no other is at least as good in both and better in one.
    """
    no_worse = (cost[None] <= cost[:, None]) & (value[None] >= value[:, None])
    better = (cost[None] < cost[:, None]) | (value[None] > value[:, None])
    beaten: NDArray[np.bool_] = np.any(no_worse & better, axis=1)
    return ~beaten


def draw_pareto(results: Results) -> go.Figure:
    """Draw validation scores against latency: the front as a line, trials as small points, means
    as large ones, and uniform scaling as a curve if it has several sizes."""
    front = find_front(results)
    figure = new_figure(
        xaxis=log_axis(f"latency ({results.latency_unit})"),
        yaxis={"title": {"text": results.task.validation_name}},
    )
    figure.add_scatter(
        x=front["latency_ms"].tolist(),
        y=front["val_mean"].tolist(),
        mode="lines",
        line={"color": _TEXT, "dash": "dot", "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )
    for points in collect_points(results, "latency_ms", "score"):
        is_curve = points.method == BASELINE.name and len(points.means) > 1
        _add_points(figure, points, "lines+markers" if is_curve else "markers")
    return figure


def draw_accuracy(
    results: Results, cost: str = "params", title: str = "parameters", score: str | None = None
) -> go.Figure:
    """Draw a line through each method's means.

    Args:
        cost: the column `params`, `macs`, or `cost` for that in the metric of the budgets.
        title: of this axis.
        score: by default the column that reports compare.
    """
    figure = new_figure(xaxis=log_axis(title), yaxis={"title": {"text": results.final_axis}})
    for points in collect_points(results, cost, score or results.final):
        _add_points(figure, points, "lines+markers")
    return figure


def _add_points(figure: go.Figure, points: MethodPoints, mode: str) -> None:
    """Add trials, and means with their deviation."""
    means, colour, symbol = points.means, *points.style
    shared = {"hovertemplate": "%{text}<extra></extra>", "legendgroup": points.method}
    figure.add_scatter(
        **points.trials[["x", "y", "text"]].to_dict("list"),
        mode="markers",
        marker={"color": colour, "opacity": 0.45, "size": 6, "symbol": symbol},
        showlegend=False,
        **shared,
    )
    figure.add_scatter(
        **means[["x", "y", "text"]].to_dict("list"),
        mode=mode,
        error_y={"color": colour, "thickness": 1.2, "array": means["deviation"].tolist()},
        marker={
            "color": colour,
            "symbol": symbol,
            "size": 12,
            "line": {"color": "white", "width": 1},
        },
        line={"color": colour},
        name=method_label(points.method),
        **shared,
    )


def draw_widths(results: Results) -> go.Figure:
    """Draw a panel of bars per metric and budget, smallest first, of those with most methods.

    The widths are those of each method's first seed.
    """
    compared, layers = set(results.compared), list(results.task.layer_names)
    by_size = with_ordered_metrics(results.outcomes).groupby(["metric", "budget"], observed=True)
    panels = [trials for size, trials in by_size if size in compared]
    columns = min(_PANELS_IN_A_ROW, len(panels))
    rows = -(-len(panels) // columns)
    titles = [size_of(trials.iloc[0].to_dict()) for trials in panels]
    figure = make_subplots(rows, columns, subplot_titles=titles)
    styles, named = method_styles(results.methods), set[str]()  # in the legend
    for index, trials in enumerate(panels):
        first = trials.sort_values("seed").groupby("method")["widths"].first()
        for method in filter(first.index.__contains__, results.methods):
            figure.add_bar(
                x=layers,
                y=list(first[method]),
                name=method_label(method),
                marker={"color": styles[method].colour},
                legendgroup=method,
                showlegend=method not in named,
                hovertemplate="%{x}: %{y}<extra>%{fullData.name}</extra>",
                row=index // columns + 1,
                col=index % columns + 1,
            )
            named.add(method)
    figure.update_yaxes(title="width").update_xaxes(automargin=True)
    height, legend = _PANEL_HEIGHT * rows + 100, {"y": -0.2 / rows}
    return figure.update_layout(template=_make_template(), height=height, legend=legend)
