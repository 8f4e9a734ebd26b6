"""How figures look: one colour and name per method, one layout."""

from typing import Any

import plotly.graph_objects as go

METHOD_NAMES = {
    "uniform": "Uniform",
    "magnitude": "Magnitude (Li et al.)",
    "morphnet": "MorphNet-style",
    "neuralscale": "NeuralScale",
}
_COLOURS = {
    "uniform": "#6b7280",
    "magnitude": "#d97706",
    "morphnet": "#2563eb",
    "neuralscale": "#dc2626",
}
_OTHER_COLOURS = ("#7c3aed", "#059669", "#db2777", "#0891b2", "#a16207")
LAYER_COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)


def method_name(method: str) -> str:
    """A method in words; `neuralscale-iter3` reads as its third iteration."""
    base, _, iteration = method.partition("-iter")
    name = METHOD_NAMES.get(base, base)
    return f"{name}, iteration {iteration}" if iteration else name


def colour(method: str, opacity: float = 1.0) -> str:
    """CSS colour of a method."""
    other = _OTHER_COLOURS[sum(method.encode()) % len(_OTHER_COLOURS)]
    code = _COLOURS.get(method, other)
    red, green, blue = (int(code[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def new_figure(**layout: Any) -> go.Figure:
    """An empty figure in the style of the report."""
    return apply_style(go.Figure()).update_layout(**layout)


def apply_style(figure: go.Figure) -> go.Figure:
    return figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 70, "r": 20, "t": 30, "b": 60},
        height=460,
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
