"""Self-contained pages: one template with styles and Plotly, which those of reports extend.

`plotly-basic.min.js` is Plotly's own small bundle (MIT license), a quarter of the full one.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader


def render_template(name: str, title: str, folder: Path | None = None, **values: Any) -> str:
    """Return a page as HTML; the template engine escapes all text from users.

    Args:
        folder: of the template, if it is not one of nsopt.
    """
    loaders = [] if folder is None else [FileSystemLoader(folder)]
    loader = ChoiceLoader([*loaders, PackageLoader("nsopt.reports", ".")])
    environment = Environment(loader=loader, autoescape=True)
    plotly = (files("nsopt.reports") / "plotly-basic.min.js").read_text(encoding="utf-8")
    return environment.get_template(name).render(title=title, plotly=plotly, **values)


def fragment(figure: go.Figure, key: str) -> str:
    """Return a figure as HTML for a page; any text `key` becomes its id."""
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


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested settings to (dotted name, value)."""
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += flatten(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs
