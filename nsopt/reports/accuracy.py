"""Figures of accuracy against latency (the Pareto front), against a cost, and at one budget.

The front selects networks, so it uses validation accuracy; the test set is for reporting only.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from nsopt.methods.registry import BASELINE, method_label
from nsopt.reports.results import Results
from nsopt.reports.style import TEXT, MethodStyle, log_axis, method_styles, new_figure
from nsopt.reports.tables import format_measured, size_of, summary, with_deviation
from nsopt.storage.schema import width_key

_ROW_HEIGHT = 34
_QUARTILES = "latency_lower_quartile_ms", "latency_upper_quartile_ms"
_NUMBERS = ["params", "macs", "latency_ms", "score", "test_score"]


class MethodPoints(NamedTuple):
    """Outcomes of one method: x, y and text of trials, and of means over seeds, by x.

    Means also have deviation and range of y, and the distances to the quartiles of a latency x.
    """

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
        text = [_describe(results, trials.iloc[[row]]) for row in range(len(trials))]
        trials = trials.assign(x=trials[x], y=trials[y], text=text)
        sizes = trials.astype(dict.fromkeys(_QUARTILES, float)).groupby(["metric", "budget"])
        spread = {"deviation": ("y", "std"), "low": ("y", "min"), "high": ("y", "max")}
        means = sizes.agg(x=("x", "mean"), y=("y", "mean"), **spread).fillna({"deviation": 0.0})
        means["text"] = [_describe(results, group) for _, group in sizes]
        if x == "latency_ms":
            lower, upper = (sizes[name].mean() for name in _QUARTILES)
            means = means.assign(below=means["x"] - lower, above=upper - means["x"])
        means = means.sort_values("x", kind="stable")
        points.append(MethodPoints(method, styles[method], trials, means))
    return points


def find_front(results: Results) -> pd.DataFrame:
    """Return the rows of the summary that no other beats in latency and validation accuracy."""
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
    """Draw validation accuracy against latency: the front as a line, trials as small points, means
    as large ones, and uniform scaling as a curve if it has several sizes."""
    methods, front = collect_points(results, "latency_ms", "score"), find_front(results)
    figure = new_figure(
        xaxis=_make_axis(methods, f"latency ({results.latency_unit})"),
        yaxis={"title": {"text": results.task.validation_name}},
    )
    figure.add_scatter(
        x=front["latency_ms"].tolist(),
        y=front["val_mean"].tolist(),
        mode="lines",
        line={"color": TEXT, "dash": "dot", "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )
    for points in methods:
        _add_trials(figure, points)
        is_curve = points.method == BASELINE.name and len(points.means) > 1
        _add_means(figure, points, mode="lines+markers" if is_curve else "markers")
    return figure


def draw_accuracy(
    results: Results, cost: str = "params", title: str = "parameters", score: str | None = None
) -> go.Figure:
    """Draw a line through each method's means, with a band from its worst to its best seed.

    Args:
        cost: the column `params`, `macs`, or `cost` for that in the metric of the budgets.
        title: of this axis.
        score: by default the column that reports compare.
    """
    methods = collect_points(results, cost, score or results.final)
    vertical = {"title": {"text": results.final_axis}}
    figure = new_figure(xaxis=_make_axis(methods, title), yaxis=vertical)
    for points in methods:
        figure.add_scatter(
            x=[*points.means["x"], *points.means["x"][::-1]],
            y=[*points.means["high"], *points.means["low"][::-1]],
            mode="lines",
            fill="toself",
            fillcolor=points.style.faint(0.15),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
        _add_trials(figure, points)
        _add_means(figure, points, mode="lines+markers")
    return figure


def draw_dots(results: Results) -> go.Figure:
    """Draw one budget: a row per method, seeds as small points, their mean with its deviation."""
    methods = collect_points(results, "params", results.final)
    names = [method_label(points.method) for points in methods]
    figure = new_figure(
        xaxis={"title": {"text": results.final_axis}},
        yaxis={"categoryarray": names[::-1], "categoryorder": "array", "automargin": True},
        height=160 + _ROW_HEIGHT * len(methods),
        showlegend=False,
    )
    for points in methods:
        row = method_label(points.method)
        trials, means = (part.assign(x=part["y"], y=row) for part in (points.trials, points.means))
        turned = points._replace(trials=trials, means=means)
        _add_trials(figure, turned)
        _add_means(figure, turned, "markers", _make_bars(turned, "deviation"), None)
    return figure


def _add_trials(figure: go.Figure, points: MethodPoints) -> None:
    figure.add_scatter(
        **points.trials[["x", "y", "text"]].to_dict("list"),
        mode="markers",
        marker={"color": points.style.faint(0.45), "size": 6, "symbol": points.style.symbol},
        hovertemplate="%{text}<extra></extra>",
        legendgroup=points.method,
        showlegend=False,
    )


def _add_means(
    figure: go.Figure, points: MethodPoints, mode: str, *bars: dict[str, Any] | None
) -> None:
    """Add the means with their bars along x and y; by default quartiles of a latency x, and the
    deviation."""
    beside = _make_bars(points, "above", "below") if "below" in points.means else None
    error_x, error_y = bars or (beside, _make_bars(points, "deviation"))
    look = {"color": points.style.colour, "symbol": points.style.symbol}
    figure.add_scatter(
        **points.means[["x", "y", "text"]].to_dict("list"),
        mode=mode,
        error_x=error_x,
        error_y=error_y,
        marker=look | {"size": 12, "line": {"color": "white", "width": 1}},
        line={"color": points.style.colour},
        name=method_label(points.method),
        legendgroup=points.method,
        hovertemplate="%{text}<extra></extra>",
    )


def _make_bars(points: MethodPoints, array: str, below: str | None = None) -> dict[str, Any]:
    bars = {"array": points.means[array].tolist(), "color": points.style.colour, "thickness": 1.2}
    return bars if below is None else bars | {"arrayminus": points.means[below].tolist()}


def _make_axis(methods: list[MethodPoints], title: str) -> dict[str, Any]:
    return log_axis([x for points in methods for x in points.trials["x"]] or [1.0], title)


def _describe(results: Results, rows: pd.DataFrame) -> str:
    """Return the hover text of a training, or of the mean of several."""
    first, numbers, task = rows.iloc[0].to_dict(), rows[_NUMBERS].astype(float), results.task
    mean, deviation = numbers.mean(), numbers.std()
    name = f"{method_label(first['method'])}, {size_of(first)}"
    scores = [(task.score_name or "validation", "score")]
    scores = [("test", "test_score"), *scores] if task.has_test else scores
    head = [f"<b>{name}, mean of {len(rows)}</b>"]
    if len(rows) == 1:
        head = [f"<b>{name}, seed {first['seed']}</b>", f"widths {width_key(first['widths'])}"]
    costs = f"{mean['params']:,.0f} parameters, {mean['macs']:,.0f} MACs"
    shown = (f"{s} {with_deviation(mean[c], deviation[c])}{task.unit}" for s, c in scores)
    return "<br>".join([*head, costs, format_measured(mean, results.batch_unit), ", ".join(shown)])
