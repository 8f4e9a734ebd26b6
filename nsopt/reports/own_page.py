"""The report of a compression with the user's loss and score: a page, and its numbers as CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from nsopt.methods.registry import DENSE, method_label
from nsopt.reports.results import Origin
from nsopt.reports.style import log_axis, method_styles, new_figure
from nsopt.reports.tables import write_table
from nsopt.reports.template import flatten, fragment, render_template
from nsopt.reports.widths import WidthsInfo, draw_widths
from nsopt.storage.schema import width_key


def write_own_report(
    folder: Path, origin: Origin, networks: pd.DataFrame, rows: Sequence[Mapping[str, str]]
) -> Path:
    """Write `index.html` and `networks.csv`; return the page's path.

    Args:
        networks: the trained network, then that of each budget: budget, method, widths, score,
            macs, latency_ms and more columns.
        rows: the same as text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = networks.assign(widths=networks["widths"].map(width_key))
    write_table(table, folder / "networks.csv")
    page = folder / "index.html"
    text = render_template(
        "own_page.html",
        origin.name,
        networks=rows,
        unit=origin.latency_unit,
        scores=fragment(draw_scores(networks, origin), "scores"),
        widths=fragment(draw_widths(_list_widths(networks, origin.layer_names)), "widths"),
        settings=flatten(origin.settings),
        provenance=flatten(origin.provenance),
    )
    page.write_text(text, encoding="utf-8")
    return page


def draw_scores(networks: pd.DataFrame, origin: Origin) -> go.Figure:
    """Draw the score of each network against its milliseconds, or MACs if it was not timed."""
    unit, score = origin.latency_unit, origin.score_name
    column, title = ("latency_ms", f"latency ({unit})") if unit else ("macs", "MACs")
    figure = new_figure(xaxis=log_axis(networks[column], title), yaxis={"title": {"text": score}})
    styles = method_styles(list(networks["method"]))
    for method, found in networks.groupby("method", sort=False):
        figure.add_scatter(
            x=found[column],
            y=found["score"],
            mode="markers+text",
            text=found["budget"],
            textposition="bottom center",
            name=method_label(method),
            marker={"color": styles[method].colour, "symbol": styles[method].symbol, "size": 12},
            hovertemplate="%{text}: %{y:.4g}<extra>%{fullData.name}</extra>",
        )
    return figure


def _list_widths(networks: pd.DataFrame, layers: Sequence[str]) -> list[WidthsInfo]:
    """Return the widths of the trained network beside those at each budget."""
    dense, *smaller = networks.to_dict("records")
    return [
        WidthsInfo(
            size=row["budget"],
            layers=list(layers),
            widths={DENSE.name: list(dense["widths"]), row["method"]: list(row["widths"])},
        )
        for row in smaller
    ]
