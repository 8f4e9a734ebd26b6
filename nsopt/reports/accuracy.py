"""Figures of accuracy against latency (the Pareto front), against a cost, and at one budget.

The front selects networks, so it uses validation accuracy; the test set is for reporting only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from nsopt.methods.registry import BASELINE, method_label
from nsopt.reports.points import MethodPoints, collect_points
from nsopt.reports.results import Results
from nsopt.reports.style import TEXT, MethodStyle, log_axis, new_figure
from nsopt.reports.tables import summary

_ROW_HEIGHT = 34


class ParetoInfo(NamedTuple):
    """Accuracies against latency.

    Attributes:
        front_x, front_y: configurations (means over seeds) that no other beats in both.
        unit: of x, with what ran the networks.
        score_name: title of y.
    """

    methods: list[MethodPoints]
    front_x: list[float]
    front_y: list[float]
    unit: str
    score_name: str


def pareto_info(results: Results) -> ParetoInfo:
    """Return validation accuracy against latency, and its Pareto front."""
    table = summary(results).dropna(subset="latency_ms")
    front = table[pareto_mask(table["latency_ms"].to_numpy(), table["val_mean"].to_numpy())]
    front = front.sort_values("latency_ms")
    return ParetoInfo(
        methods=collect_points(results, "latency_ms", "score"),
        front_x=front["latency_ms"].tolist(),
        front_y=front["val_mean"].tolist(),
        unit=results.latency_unit,
        score_name=results.task.validation_name,
    )


def pareto_mask(cost: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points are on the Pareto front of low cost (N,) and high value (N,): bool (N,).

    A point is on it if no other is at least as good in both and better in one.
    """
    no_worse = (cost[None] <= cost[:, None]) & (value[None] >= value[:, None])
    better = (cost[None] < cost[:, None]) | (value[None] > value[:, None])
    beaten: NDArray[np.bool_] = np.any(no_worse & better, axis=1)
    return ~beaten


def draw_pareto(info: ParetoInfo) -> go.Figure:
    """Draw the front as a line, trials as small points, means as large ones, and uniform scaling as
    a curve if it has several sizes."""
    latencies = [x for points in info.methods for x in points.x] or [1.0]
    figure = new_figure(
        xaxis=log_axis(latencies, f"latency ({info.unit})"),
        yaxis={"title": {"text": info.score_name}},
    )
    figure.add_scatter(
        x=info.front_x,
        y=info.front_y,
        mode="lines",
        line={"color": TEXT, "dash": "dot", "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )
    for points in info.methods:
        _add_trials(figure, points, points.x, points.y)
        is_curve = points.method == BASELINE.name and len(points.mean_x) > 1
        _add_means(figure, points, mode="lines+markers" if is_curve else "markers")
    return figure


def accuracy_info(results: Results, cost: str = "params") -> list[MethodPoints]:
    """Return the score that reports compare against a cost.

    Args:
        cost: `params`, `macs`, or `cost` for that in the metric of the budgets.
    """
    return collect_points(results, cost, results.final)


def draw_accuracy(
    methods: list[MethodPoints], score_name: str, cost: str = "parameters"
) -> go.Figure:
    """Draw a line through each method's means, with a band from its worst to its best seed."""
    figure = new_figure(
        xaxis=log_axis([x for points in methods for x in points.x] or [1.0], cost),
        yaxis={"title": {"text": score_name}},
    )
    for points in methods:
        figure.add_scatter(
            x=points.mean_x + points.mean_x[::-1],
            y=points.high + points.low[::-1],
            mode="lines",
            fill="toself",
            fillcolor=points.style.faint(0.15),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
        _add_trials(figure, points, points.x, points.y)
        _add_means(figure, points, mode="lines+markers")
    return figure


def draw_dots(methods: list[MethodPoints], score_name: str) -> go.Figure:
    """Draw one budget: a row per method, seeds as small points, their mean with its deviation."""
    names = [method_label(points.method) for points in methods]
    figure = new_figure(
        xaxis={"title": {"text": score_name}},
        yaxis={"categoryarray": names[::-1], "categoryorder": "array", "automargin": True},
        height=160 + _ROW_HEIGHT * len(methods),
        showlegend=False,
    )
    for points in methods:
        row = [method_label(points.method)]
        _add_trials(figure, points, points.y, row * len(points.y))
        figure.add_scatter(
            x=points.mean_y,
            y=row,
            mode="markers",
            error_x=_make_bars(points, points.deviation),
            marker=_make_marker(points.style),
            text=points.mean_text,
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    return figure


def _add_trials(
    figure: go.Figure, points: MethodPoints, x: Sequence[float], y: Sequence[Any]
) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"color": points.style.faint(0.45), "size": 6, "symbol": points.style.symbol},
        text=points.text,
        hovertemplate="%{text}<extra></extra>",
        legendgroup=points.method,
        showlegend=False,
    )


def _add_means(figure: go.Figure, points: MethodPoints, mode: str) -> None:
    figure.add_scatter(
        x=points.mean_x,
        y=points.mean_y,
        mode=mode,
        error_y=_make_bars(points, points.deviation),
        error_x=_make_quartile_bars(points),
        marker=_make_marker(points.style),
        line={"color": points.style.colour},
        name=method_label(points.method),
        legendgroup=points.method,
        text=points.mean_text,
        hovertemplate="%{text}<extra></extra>",
    )


def _make_bars(points: MethodPoints, above: Sequence[float]) -> dict[str, Any]:
    return {"array": above, "color": points.style.colour, "thickness": 1.2}


def _make_quartile_bars(points: MethodPoints) -> dict[str, Any] | None:
    if points.quartiles is None:
        return None
    ends = zip(points.mean_x, points.quartiles, strict=True)
    below, above = zip(*((mean - low, high - mean) for mean, (low, high) in ends), strict=True)
    return _make_bars(points, above) | {"arrayminus": below}


def _make_marker(style: MethodStyle) -> dict[str, Any]:
    line = {"color": "white", "width": 1}
    return {"color": style.colour, "symbol": style.symbol, "size": 12, "line": line}
