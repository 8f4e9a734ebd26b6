"""Pages that stand alone: one template with styles and Plotly, filled by those of reports.

`plotly-basic.min.js` is Plotly's own small bundle (MIT license), a quarter of the whole one.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader


def render_template(name: str, title: str, **values: Any) -> str:
    """A page as HTML; all text from users is escaped by the template engine."""
    environment = Environment(loader=PackageLoader("nsopt.reports", "."), autoescape=True)
    plotly = (files("nsopt.reports") / "plotly-basic.min.js").read_text(encoding="utf-8")
    return environment.get_template(name).render(title=title, plotly=plotly, **values)


def fragment(figure: go.Figure, key: str) -> str:
    """A figure as a part of a page. key: any text, which ends its id."""
    word = re.sub(r"[^\w-]", "_", key)
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{word}",
        config={
            "displaylogo": False,
            "displayModeBar": "hover",
            "responsive": True,
            "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d"],
        },
    )
    return html


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as (dotted name, value)."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
