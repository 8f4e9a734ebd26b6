"""Figure of the fitted law over the recorded widths: a panel per layer, both axes logarithmic."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nsopt.methods.registry import BASELINE
from nsopt.reports.results import Results
from nsopt.reports.style import MethodStyle, apply_style, log_axis
from nsopt.scaling.cost import FloatArray
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import LATENCY, get_metric

_SAMPLES = 40  # points of a line in the record, and as many on each side of it
RECORDED = slice(_SAMPLES, 2 * _SAMPLES)
_EVERYWHERE = "range", "tickvals", "ticktext"  # parts of an axis
_COLUMNS = {LATENCY.name: "latency_ms"}
_PANELS_IN_A_ROW = 4
_PANEL_HEIGHT = 230
_LINE = MethodStyle("#0072b2", "circle")
_ROWS = "#d55e00"
_MENU = "#3b82c4"  # readable on a pale pressed button and on a dark page


def draw_law(results: Results, search: str) -> go.Figure:
    """Draw record, fit and extrapolation of every layer, over tau.

    Buttons choose between widths and widths relative to uniform networks of about the same size. Of
    a search, by its kind, the last iteration is drawn.
    """
    names, last = results.task.layer_names, results.searches[search][-1]
    unit = get_metric(last.metric).unit
    columns = min(_PANELS_IN_A_ROW, len(names))
    rows = -(-len(names) // columns)
    exponents = zip(names, last.law.beta, last.law.r2, strict=True)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[f"{name}: exponent {b:.2f}, r2 {r2:.2f}" for name, b, r2 in exponents],
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
    for layer, trace, values, uniform in _make_traces(results, search):
        figure.add_trace(trace, row=layer // columns + 1, col=layer % columns + 1)
        plain.append(values)
        relative.append(values / uniform)
    x = log_axis(np.concatenate([trace.x for trace in figure.data]), f"tau ({unit})")
    figure.update_xaxes(x | {"title": None})
    figure.update_xaxes({"title": x["title"]}, row=rows)
    kinds = [("widths", plain), ("relative to uniform, about", relative)]
    axes = [log_axis(np.concatenate(values), name) for name, values in kinds]
    figure.update_yaxes(axes[0] | {"title": None})
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


def _make_traces(
    results: Results, search: str
) -> Iterator[tuple[int, go.Scatter, FloatArray, FloatArray]]:
    """Yield the index of a layer, a trace, its widths, and those of uniform scaling at its sizes.

    A line is solid inside the record and dashed where it extrapolates. Sizes of uniform networks
    are taken to grow with the square of the widths.
    """
    iterations = results.searches[search]
    record, law, metric = iterations[-1].record, iterations[-1].law, iterations[-1].metric
    tau = record.tau.astype(np.float64)
    line = _choose_sizes(results, tau, metric)
    widths, base = law.widths(line), float(iterations[0].trajectory.tau[0])
    uniform = uniform_curve(results.task.base_widths)
    beside, beside_rows = (uniform.widths(np.sqrt(sizes / base)) for sizes in (line, tau))
    quiet = {"hoverinfo": "skip", "mode": "lines"}
    dashed = {"color": _LINE.colour, "width": 1, "dash": "dash"}
    inside, unit = line[RECORDED], get_metric(metric).unit
    for layer, name in enumerate(results.task.layer_names):
        y, near = widths[:, layer], beside[:, layer]
        yield layer, go.Scatter(x=line, y=y, line=dashed, **quiet), y, near
        y, near = y[RECORDED], near[RECORDED]
        yield layer, go.Scatter(x=inside, y=y, line={"color": _LINE.colour}, **quiet), y, near
        y, near = record.widths[:, layer].astype(float), beside_rows[:, layer]
        points = go.Scatter(
            x=tau,
            y=y,
            mode="markers",
            marker={"color": _ROWS, "size": 5},
            hovertemplate=f"{name}: %{{y}} at %{{x:,}} {unit}<extra></extra>",
        )
        yield layer, points, y, near


def _choose_sizes(results: Results, recorded: FloatArray, metric: str) -> FloatArray:
    """Return the sizes of a line's points, of which those at `RECORDED` are inside the record."""
    first, last = float(recorded.min()), float(recorded.max())
    proposed = results.outcomes[results.outcomes["method"] != BASELINE.name]
    networks = results.outcomes if proposed.empty else proposed  # else uniform ones
    sizes = networks[_COLUMNS.get(metric, metric)].dropna()
    ends = min(first, float(sizes.min())), first, last, max(last, float(sizes.max()))
    return np.concatenate([np.geomspace(*pair, _SAMPLES) for pair in pairwise(ends)])


def _set_axes(axis: dict[str, object], panels: int, columns: int) -> dict[str, object]:
    """Return range and ticks of every panel's y axis, and titles for the first column."""
    names = [f"yaxis{panel or ''}" for panel in (0, *range(2, panels + 1))]
    parts = {f"{name}.{part}": axis[part] for name in names for part in _EVERYWHERE}
    return parts | {f"{name}.title": axis["title"] for name in names[::columns]}
