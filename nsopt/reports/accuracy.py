"""Accuracy against latency (the Pareto front) and against parameters.

The front is a selection, so it is drawn over validation accuracy; test accuracy is only reported.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from nsopt.methods.registry import method_label
from nsopt.reports.published import PublishedLine
from nsopt.reports.results import Results
from nsopt.reports.style import colour, new_figure
from nsopt.reports.tables import size_of, summary
from nsopt.storage.schema import width_key

_MARGIN = 1.25  # beside the outermost points, so that one budget alone is not blown up


class MethodPoints(NamedTuple):
    """Outcomes of one method: x and y of every trial with its hover text, and of the means."""

    method: str
    x: list[float]
    y: list[float]
    text: list[str]
    mean_x: list[float]
    mean_y: list[float]
    low: list[float]
    high: list[float]


class ParetoInfo(NamedTuple):
    """front_x, front_y: configurations (means over seeds) that no other one beats in both."""

    methods: list[MethodPoints]
    front_x: list[float]
    front_y: list[float]


def pareto_info(results: Results) -> ParetoInfo:
    """Validation accuracy against latency."""
    table = summary(results).dropna(subset="latency_ms")
    front = table[pareto_mask(table["latency_ms"].to_numpy(), table["val_mean"].to_numpy())]
    front = front.sort_values("latency_ms")
    return ParetoInfo(
        methods=_points(results, "latency_ms", "val_accuracy"),
        front_x=front["latency_ms"].tolist(),
        front_y=front["val_mean"].tolist(),
    )


def pareto_mask(cost: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of N points no other beats: none cheaper or equal, better or equal, and not both equal.

    cost, value: (N,); bool (N,).
    """
    no_worse = (cost[None] <= cost[:, None]) & (value[None] >= value[:, None])
    better = (cost[None] < cost[:, None]) | (value[None] > value[:, None])
    beaten: NDArray[np.bool_] = np.any(no_worse & better, axis=1)
    return ~beaten


def draw_pareto(info: ParetoInfo) -> go.Figure:
    """The front as a line, every trial as a small point, the means as large ones."""
    figure = new_figure(
        xaxis={"title": "latency (ms per batch of 100)", "type": "log"},
        yaxis={"title": "validation accuracy (%)"},
    )
    figure.add_scatter(
        x=info.front_x,
        y=info.front_y,
        mode="lines",
        line={"color": "#111827", "dash": "dot", "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )
    for points in info.methods:
        _add_trials(figure, points)
        _add_means(figure, points, mode="markers")
    return figure


def accuracy_info(results: Results) -> list[MethodPoints]:
    """Test accuracy at the last epoch against parameters."""
    return _points(results, "params", "test_accuracy")


def draw_accuracy(methods: list[MethodPoints], published: list[PublishedLine]) -> go.Figure:
    """A line through the means of each method, with a band from the worst to the best seed.

    Published accuracies are dotted, and hidden until their legend entry is clicked.
    """
    params = [x for points in methods for x in points.x]
    figure = new_figure(
        xaxis={
            "title": "parameters",
            "type": "log",
            "range": [np.log10(min(params) / _MARGIN), np.log10(max(params) * _MARGIN)],
        },
        yaxis={"title": "test accuracy at the last epoch (%)"},
    )
    for points in methods:
        figure.add_scatter(
            x=points.mean_x + points.mean_x[::-1],
            y=points.high + points.low[::-1],
            fill="toself",
            fillcolor=colour(points.method, 0.15),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
        _add_trials(figure, points)
        _add_means(figure, points, mode="lines+markers")
    for line in published:
        figure.add_scatter(
            x=line.params,
            y=line.accuracy,
            mode="lines+markers",
            line={"color": colour(line.method), "dash": "dot"},
            marker={"symbol": "circle-open", "size": 9},
            name=line.label,
            text=line.text,
            hovertemplate="%{text}<extra></extra>",
            visible="legendonly",
        )
    return figure


def _points(results: Results, x: str, y: str) -> list[MethodPoints]:
    points = []
    for method in results.methods:
        trials = results.outcomes[results.outcomes["method"] == method]
        grouped = trials.groupby(["metric", "budget"], sort=True)
        order = grouped[x].mean().argsort().to_numpy()
        points.append(
            MethodPoints(
                method=method,
                x=trials[x].tolist(),
                y=trials[y].tolist(),
                text=[_hover(row) for row in trials.to_dict("records")],
                mean_x=grouped[x].mean().iloc[order].tolist(),
                mean_y=grouped[y].mean().iloc[order].tolist(),
                low=grouped[y].min().iloc[order].tolist(),
                high=grouped[y].max().iloc[order].tolist(),
            )
        )
    return points


def _hover(row: dict[str, object]) -> str:
    trial = pd.Series(row)
    return "<br>".join(
        [
            f"<b>{method_label(trial['method'])}, {size_of(row)}, seed {trial['seed']}</b>",
            f"widths {width_key(trial['widths'])}",
            f"{trial['params']:,} parameters, {trial['macs']:,} MACs",
            f"{trial['latency_ms']:.2f} ms",
            f"validation {trial['val_accuracy']:.2f} %, test {trial['test_accuracy']:.2f} %",
        ]
    )


def _add_trials(figure: go.Figure, points: MethodPoints) -> None:
    figure.add_scatter(
        x=points.x,
        y=points.y,
        mode="markers",
        marker={"color": colour(points.method, 0.45), "size": 6},
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
        marker={"color": colour(points.method), "size": 11, "line": {"color": "white", "width": 1}},
        line={"color": colour(points.method)},
        name=method_label(points.method),
        legendgroup=points.method,
        hovertemplate="mean over seeds: %{y:.2f} %<extra></extra>",
    )
