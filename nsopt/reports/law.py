"""Figure of the fitted law over the recorded widths: a panel per layer, both axes logarithmic."""

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nsopt.methods.registry import BASELINE
from nsopt.reports.results import Results
from nsopt.reports.style import MethodStyle, apply_style, log_axis
from nsopt.scaling.cost import FloatArray
from nsopt.scaling.family import relative_uniform
from nsopt.scaling.metric import LATENCY, get_metric

_SAMPLES = 40  # points of a line in the record, and as many on each side of it
RECORDED = slice(_SAMPLES, 2 * _SAMPLES)
_COLUMNS = {LATENCY.name: "latency_ms"}
_PANELS_IN_A_ROW = 4
_PANEL_HEIGHT = 230
_LINE = MethodStyle("#0072b2", "circle")
_ROWS = "#d55e00"
_MENU = "#3b82c4"  # readable on a pale pressed button and on a dark page


class LawInfo(NamedTuple):
    """One layer: record (N,), fitted line and, if known, its 90 % band.

    The line is solid inside the record and dashed where it extrapolates.

    Attributes:
        line_tau, line_widths: the line, whose points at `RECORDED` are inside the record.
        uniform, uniform_line: the layer's widths in uniform networks of the same sizes as the rows,
            and as the line's points, if sizes grew with the square of the widths.
    """

    layer: str
    r2: float
    exponent: float
    tau: list[float]
    widths: list[float]
    line_tau: list[float]
    line_widths: list[float]
    low: list[float]
    high: list[float]
    uniform: list[float]
    uniform_line: list[float]


def law_info(results: Results, search: str) -> list[LawInfo]:
    """Return the law of the last iteration of a search, given by its kind, by layer."""
    iterations = results.searches[search]
    record, law = iterations[-1].record, iterations[-1].law
    first, last = float(record.tau.min()), float(record.tau.max())
    proposed = results.outcomes[results.outcomes["method"] != BASELINE.name]
    networks = results.outcomes if proposed.empty else proposed  # else uniform ones
    sizes = networks[_COLUMNS.get(iterations[-1].metric, iterations[-1].metric)].dropna()
    below = np.geomspace(min(first, float(sizes.min())), first, _SAMPLES)
    inside = np.geomspace(first, last, _SAMPLES)
    above = np.geomspace(last, max(last, float(sizes.max())), _SAMPLES)
    line = np.concatenate([below, inside, above])
    widths = law.widths(line)
    low, high = law.band(line) or (widths[:0], widths[:0])
    uniform = relative_uniform(results.task.base_widths)
    base = float(iterations[0].trajectory.tau[0])
    return [
        LawInfo(
            layer=name,
            r2=float(law.r2[layer]),
            exponent=float(law.beta[layer]),
            tau=record.tau.astype(float).tolist(),
            widths=record.widths[:, layer].astype(float).tolist(),
            line_tau=line.tolist(),
            line_widths=widths[:, layer].tolist(),
            low=low[:, layer].tolist(),
            high=high[:, layer].tolist(),
            uniform=uniform.widths(record.tau / base)[:, layer].tolist(),
            uniform_line=uniform.widths(line / base)[:, layer].tolist(),
        )
        for layer, name in enumerate(results.task.layer_names)
    ]


def draw_search(results: Results, search: str) -> go.Figure:
    """Draw the law of the last iteration of a search, given by its kind."""
    return draw_law(law_info(results, search), results.searches[search][-1].metric)


def draw_law(layers: list[LawInfo], metric: str) -> go.Figure:
    """Draw record, fit, band and extrapolation of every layer, over tau in a metric.

    Buttons choose between widths and widths relative to uniform networks of about the same size.
    """
    unit = get_metric(metric).unit
    columns = min(_PANELS_IN_A_ROW, len(layers))
    rows = -(-len(layers) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[
            f"{info.layer}: exponent {info.exponent:.2f}, r2 {info.r2:.2f}" for info in layers
        ],
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.02,
        vertical_spacing=0.25 / rows,
    )
    apply_style(figure).update_layout(
        height=_PANEL_HEIGHT * rows + 130, showlegend=False, margin={"t": 70, "b": 80}
    )
    figure.update_annotations(font={"size": 11})
    plain, relative = list[FloatArray](), list[FloatArray]()
    for index, info in enumerate(layers):
        for trace, values, uniform in _make_traces(info, unit):
            figure.add_trace(trace, row=index // columns + 1, col=index % columns + 1)
            plain.append(values)
            relative.append(values / uniform)
    x = log_axis([t for info in layers for t in (*info.tau, *info.line_tau)], f"tau ({unit})")
    figure.update_xaxes({name: value for name, value in x.items() if name != "title"})
    for column in range(1, columns + 1):
        figure.update_xaxes({"title": x["title"]}, row=rows, col=column)
    kinds = [("widths", plain), ("relative to uniform, about", relative)]
    axes = [log_axis(np.concatenate(values), name) for name, values in kinds]
    figure.update_yaxes({name: value for name, value in axes[0].items() if name != "title"})
    figure.update_yaxes({"title": axes[0]["title"]}, col=1)
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [{"y": [v.tolist() for v in values]}, _set_axes(axis, rows * columns, columns)],
        }
        for (name, values), axis in zip(kinds, axes, strict=True)
    ]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "font": {"color": _MENU}}
    place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 26}}
    return figure.update_layout(updatemenus=[menu | place])


def _make_traces(info: LawInfo, unit: str) -> list[tuple[go.Scatter, FloatArray, FloatArray]]:
    """Return traces, each with its widths and those of uniform scaling at the same sizes."""
    line, uniform = np.array(info.line_widths), np.array(info.uniform_line)
    quiet = {"hoverinfo": "skip", "mode": "lines"}
    parts = []
    if info.low:
        band = np.array([*info.high, *info.low[::-1]])
        there_and_back = [*info.line_tau, *info.line_tau[::-1]]
        shape = go.Scatter(
            x=there_and_back,
            y=band,
            fill="toself",
            fillcolor=_LINE.faint(0.18),
            line={"width": 0},
            **quiet,
        )
        parts.append((shape, band, np.concatenate([uniform, uniform[::-1]])))
    dashed = {"color": _LINE.colour, "width": 1, "dash": "dash"}
    parts.append((go.Scatter(x=info.line_tau, y=line, line=dashed, **quiet), line, uniform))
    solid = go.Scatter(
        x=info.line_tau[RECORDED], y=line[RECORDED], line={"color": _LINE.colour}, **quiet
    )
    parts.append((solid, line[RECORDED], uniform[RECORDED]))
    widths = np.array(info.widths)
    points = go.Scatter(
        x=info.tau,
        y=widths,
        mode="markers",
        marker={"color": _ROWS, "size": 5},
        hovertemplate=f"{info.layer}: %{{y}} at %{{x:,}} {unit}<extra></extra>",
    )
    parts.append((points, widths, np.array(info.uniform)))
    return parts


def _set_axes(axis: dict[str, object], panels: int, columns: int) -> dict[str, object]:
    """Return range and ticks of every panel's y axis, and titles for the first column."""
    changes = dict[str, object]()
    for panel in range(panels):
        name = f"yaxis{panel + 1 if panel else ''}"
        for part in ("range", "tickvals", "ticktext"):
            changes[f"{name}.{part}"] = axis[part]
        if panel % columns == 0:
            changes[f"{name}.title"] = axis["title"]
    return changes
