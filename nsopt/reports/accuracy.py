"""Figures of accuracy against latency (the Pareto front), against a cost, and at one budget.

The front selects networks, so it uses validation accuracy; the test set is for reporting only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from nsopt.methods.registry import BASELINE, method_label
from nsopt.reports.results import Results
from nsopt.reports.style import TEXT, MethodStyle, log_axis, method_styles, new_figure
from nsopt.reports.tables import format_measured, size_of, summary, with_deviation
from nsopt.storage.schema import TaskDescription, width_key

_ROW_HEIGHT = 34
_QUARTILES = "latency_lower_quartile_ms", "latency_upper_quartile_ms"


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
    unit, task = results.batch_unit, results.task
    for method in results.methods:
        trials = results.outcomes[results.outcomes["method"] == method].dropna(subset=x)
        if trials.empty:
            continue
        text = [_describe(row, unit, task) for row in trials.to_dict("records")]
        trials = trials.assign(x=trials[x], y=trials[y], text=text)
        sizes = trials.astype(dict.fromkeys(_QUARTILES, float)).groupby(["metric", "budget"])
        means = sizes.agg(
            x=("x", "mean"),
            y=("y", "mean"),
            deviation=("y", "std"),
            low=("y", "min"),
            high=("y", "max"),
            lower=(_QUARTILES[0], "mean"),
            upper=(_QUARTILES[1], "mean"),
        ).fillna({"deviation": 0.0})
        means["text"] = [_describe_mean(group, unit, task) for _, group in sizes]
        if x == "latency_ms":
            means["below"] = means["x"] - means["lower"]
            means["above"] = means["upper"] - means["x"]
        means = means.drop(columns=["lower", "upper"]).sort_values("x", kind="stable")
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
    latencies = [x for points in methods for x in points.trials["x"]] or [1.0]
    figure = new_figure(
        xaxis=log_axis(latencies, f"latency ({results.latency_unit})"),
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
    figure = new_figure(
        xaxis=log_axis([x for points in methods for x in points.trials["x"]] or [1.0], title),
        yaxis={"title": {"text": results.final_axis}},
    )
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
        row, means = method_label(points.method), points.means
        shown = points.trials.assign(x=points.trials["y"], y=row)
        _add_trials(figure, points._replace(trials=shown))
        figure.add_scatter(
            x=means["y"].tolist(),
            y=[row],
            mode="markers",
            error_x=_make_bars(points, "deviation"),
            marker=_make_marker(points.style),
            text=means["text"].tolist(),
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
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


def _add_means(figure: go.Figure, points: MethodPoints, mode: str) -> None:
    figure.add_scatter(
        **points.means[["x", "y", "text"]].to_dict("list"),
        mode=mode,
        error_y=_make_bars(points, "deviation"),
        error_x=_make_bars(points, "above", "below") if "below" in points.means else None,
        marker=_make_marker(points.style),
        line={"color": points.style.colour},
        name=method_label(points.method),
        legendgroup=points.method,
        hovertemplate="%{text}<extra></extra>",
    )


def _make_bars(points: MethodPoints, array: str, below: str | None = None) -> dict[str, Any]:
    bars = {"array": points.means[array].tolist(), "color": points.style.colour, "thickness": 1.2}
    return bars if below is None else bars | {"arrayminus": points.means[below].tolist()}


def _make_marker(style: MethodStyle) -> dict[str, Any]:
    line = {"color": "white", "width": 1}
    return {"color": style.colour, "symbol": style.symbol, "size": 12, "line": line}


def describe_scores(task: TaskDescription, show: Callable[[str], str]) -> str:
    """Return the scores of a network in words; `show` formats a column."""
    shown = f"{task.score_name or 'validation'} {show('score')}{task.unit}"
    return f"test {show('test_score')}{task.unit}, {shown}" if task.has_test else shown


def _describe(trial: dict[str, Any], unit: str, task: TaskDescription) -> str:
    return "<br>".join(
        [
            f"<b>{method_label(trial['method'])}, {size_of(trial)}, seed {trial['seed']}</b>",
            f"widths {width_key(trial['widths'])}",
            f"{trial['params']:,} parameters, {trial['macs']:,} MACs",
            format_measured(trial, unit),
            describe_scores(task, lambda name: f"{trial[name]:.2f}"),
        ]
    )


def _describe_mean(group: pd.DataFrame, unit: str, task: TaskDescription) -> str:
    first = group.iloc[0].to_dict()

    def show(name: str) -> str:
        return with_deviation(group[name].mean(), group[name].std())

    return "<br>".join(
        [
            f"<b>{method_label(first['method'])}, {size_of(first)}, mean of {len(group)}</b>",
            f"{group['params'].mean():,.0f} parameters, {group['macs'].mean():,.0f} MACs",
            format_measured({"latency_ms": group["latency_ms"].mean()}, unit),
            describe_scores(task, show),
        ]
    )
