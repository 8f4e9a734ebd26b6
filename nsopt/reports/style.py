"""How figures look: one colour per method, one layout."""

from typing import Any

import plotly.graph_objects as go

from nsopt.methods.registry import methods

_COLOURS = ("#6b7280", "#d97706", "#2563eb", "#dc2626")
_OTHER_COLOURS = ("#7c3aed", "#059669", "#db2777", "#0891b2", "#a16207")
LAYER_COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)


def colour(method: str, opacity: float = 1.0) -> str:
    """CSS colour of a method: the same in all reports."""
    known = dict(zip(methods(), _COLOURS, strict=False))
    other = _OTHER_COLOURS[sum(method.encode()) % len(_OTHER_COLOURS)]
    code = known.get(method, other)
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
