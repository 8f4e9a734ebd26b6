"""The style of figures: a colour and a marker per method, axes, layout for light and dark pages.

The colours are Okabe and Ito's, which people with any colour vision can distinguish; markers
distinguish methods without colour. Text and grid are grey on a transparent background.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from nsopt.methods.registry import report_order
from nsopt.scaling.metric import short_number

_GREY = "#666666"
TEXT = "#6e7781"
_GRID = "rgba(128, 128, 128, 0.25)"
_MARGIN = 1.25  # factor beyond the outermost points


class MethodStyle(NamedTuple):
    """How a method looks in figures: a colour as #rrggbb, and a symbol of Plotly."""

    colour: str
    symbol: str

    def faint(self, opacity: float) -> str:
        """Return the colour as CSS, with an opacity."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red}, {green}, {blue}, {opacity})"


_STYLES = (
    MethodStyle(_GREY, "circle"),
    MethodStyle("#e69f00", "square"),
    MethodStyle("#009e73", "diamond"),
    MethodStyle("#d55e00", "triangle-up"),
    MethodStyle("#0072b2", "star"),
    MethodStyle("#6a3d9a", "hexagram"),
    MethodStyle("#b2182b", "star-diamond"),
)
_OTHER_COLOURS = ("#cc79a7", "#56b4e9", "#882255", "#0072b2", "#009e73", "#e69f00", "#d55e00")
_OTHER_SYMBOLS = ("triangle-down", "cross", "x", "pentagon", "hexagon", "hourglass", "bowtie")


def method_styles(names: Sequence[str]) -> dict[str, MethodStyle]:
    """Return a distinct style for each method; built-in methods look the same in all reports."""
    known = dict(zip(report_order(), _STYLES, strict=False))
    looks = cycle(zip(cycle(_OTHER_COLOURS), _OTHER_SYMBOLS, strict=False))
    others = [name for name in dict.fromkeys(names) if name not in known]
    return known | {name: MethodStyle(*look) for name, look in zip(others, looks, strict=False)}


def new_figure(**layout: Any) -> go.Figure:
    return apply_style(go.Figure()).update_layout(**layout)


def apply_style(figure: go.Figure) -> go.Figure:
    """Give a figure the style of the report, as defaults of what it does not set itself."""
    return figure.update_layout(template=_make_template())


@cache
def _make_template() -> go.layout.Template:
    axis = {"gridcolor": _GRID, "linecolor": _GRID, "zeroline": False, "automargin": True}
    return go.layout.Template(
        layout={
            "xaxis": axis,
            "yaxis": axis,
            "paper_bgcolor": "rgba(0, 0, 0, 0)",
            "plot_bgcolor": "rgba(0, 0, 0, 0)",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": TEXT},
            "margin": {"l": 60, "r": 44, "t": 30, "b": 60},
            "height": 460,
            "hoverlabel": {"align": "left"},
            "modebar": {"bgcolor": "rgba(0, 0, 0, 0)", "color": TEXT, "orientation": "v"},
            "legend": {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0},
        }
    )


def log_axis(values: Iterable[float], title: str) -> dict[str, Any]:
    """Return a logarithmic axis for `values`, with readable ticks."""
    numbers = np.array(list(values), dtype=np.float64)
    low, high = float(numbers.min()) / _MARGIN, float(numbers.max()) * _MARGIN
    ticks = _choose_ticks(low, high)
    return {
        "title": {"text": f"{title}, log scale"},
        "type": "log",
        "range": [np.log10(low), np.log10(high)],
        "tickvals": ticks,
        "ticktext": [short_number(tick) for tick in ticks],
    }


def _choose_ticks(low: float, high: float) -> list[float]:
    """Return about four to eight round numbers between two numbers."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 4:
            return inside
    least = (high - low) / 7.5
    unit = 10.0 ** np.floor(np.log10(least))
    step = unit * min(factor for factor in (1, 2, 5, 10) if factor * unit >= least)
    return [float(step * i) for i in range(int(np.ceil(low / step)), int(high / step) + 1)]
