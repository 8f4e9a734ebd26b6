"""The fitted law over the recorded widths, both axes logarithmic."""

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from nsopt.reports.results import Results
from nsopt.reports.style import LAYER_COLOURS, new_figure
from nsopt.scaling.metric import LATENCY, get_metric

_SAMPLES = 40
_COLUMNS = {LATENCY.name: "latency_ms"}


class LawInfo(NamedTuple):
    """One layer's record (N,) and fitted line; solid where recorded, dashed where extrapolated."""

    layer: str
    r2: float
    exponent: float
    tau: list[float]
    widths: list[float]
    line_tau: list[float]
    line_widths: list[float]
    extrapolated_tau: list[float | None]
    extrapolated_widths: list[float | None]


def law_info(results: Results, search: str) -> list[LawInfo]:
    """The law of a search's last iteration, one entry per layer. search: the kind of its study."""
    iteration = results.searches[search][-1]
    record, law = iteration.record, iteration.law
    first, last = float(record.tau.min()), float(record.tau.max())
    sizes = results.outcomes[_COLUMNS.get(iteration.metric, iteration.metric)].dropna()
    inside = np.geomspace(first, last, _SAMPLES)
    below = np.geomspace(min(first, float(sizes.min())), first, _SAMPLES)
    above = np.geomspace(last, max(last, float(sizes.max())), _SAMPLES)
    outside = [*below, None, *above]
    widths_outside = [*law.widths(below), None, *law.widths(above)]
    return [
        LawInfo(
            layer=name,
            r2=float(law.r2[layer]),
            exponent=float(law.beta[layer]),
            tau=record.tau.astype(float).tolist(),
            widths=record.widths[:, layer].astype(float).tolist(),
            line_tau=inside.tolist(),
            line_widths=law.widths(inside)[:, layer].tolist(),
            extrapolated_tau=outside,
            extrapolated_widths=[None if w is None else float(w[layer]) for w in widths_outside],
        )
        for layer, name in enumerate(results.task.layer_names)
    ]


def draw_law(layers: list[LawInfo], metric: str) -> go.Figure:
    """Recorded points, fit and extrapolation of every layer. metric: of tau."""
    unit = get_metric(metric).unit
    figure = new_figure(
        xaxis={"title": f"tau ({unit})", "type": "log", "dtick": "D2"},
        yaxis={"title": "width", "type": "log", "dtick": "D2"},
        height=560,
        legend={"orientation": "v", "x": 1.01, "y": 1, "xanchor": "left", "yanchor": "top"},
    )
    for index, info in enumerate(layers):
        shade = LAYER_COLOURS[index % len(LAYER_COLOURS)]
        shared = {"legendgroup": info.layer, "hoverinfo": "skip", "mode": "lines"}
        figure.add_scatter(
            x=info.tau,
            y=info.widths,
            mode="markers",
            marker={"color": shade, "size": 5, "opacity": 0.5},
            name=f"{info.layer}: exponent {info.exponent:.2f}, r2 {info.r2:.3f}",
            legendgroup=info.layer,
            hovertemplate=f"{info.layer}: %{{y}} at %{{x:,}} {unit}<extra></extra>",
        )
        figure.add_scatter(
            x=info.line_tau, y=info.line_widths, line={"color": shade}, showlegend=False, **shared
        )
        figure.add_scatter(
            x=info.extrapolated_tau,
            y=info.extrapolated_widths,
            line={"color": shade, "dash": "dash", "width": 1},
            showlegend=False,
            **shared,
        )
    return figure
