"""Figure of the widths per layer and method at each budget."""

from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nsopt.methods.registry import method_label
from nsopt.reports.results import Results
from nsopt.reports.style import apply_style, method_styles
from nsopt.reports.tables import size_of, with_ordered_metrics

_COLUMNS = 2
_ROW_HEIGHT = 320


class WidthsInfo(NamedTuple):
    """The widths (L,) of each method's first seed at one budget."""

    size: str
    layers: list[str]
    widths: dict[str, list[int]]


def widths_info(results: Results) -> list[WidthsInfo]:
    """Return one entry per metric and budget, smallest first, of those with most methods."""
    infos, compared = [], set(results.compared)
    outcomes = with_ordered_metrics(results.outcomes)
    for size, trials in outcomes.groupby(["metric", "budget"], observed=True):
        if size not in compared:
            continue
        first = trials.sort_values("seed").groupby("method").first()
        infos.append(
            WidthsInfo(
                size=size_of(trials.iloc[0].to_dict()),
                layers=list(results.task.layer_names),
                widths={
                    m: list(first.loc[m, "widths"]) for m in results.methods if m in first.index
                },
            )
        )
    return infos


def draw_widths(infos: list[WidthsInfo]) -> go.Figure:
    """Draw a panel of bars per budget."""
    columns = min(_COLUMNS, len(infos))
    rows = -(-len(infos) // columns)
    figure = make_subplots(rows, columns, subplot_titles=[info.size for info in infos])
    apply_style(figure)
    styles = method_styles(list(dict.fromkeys(m for info in infos for m in info.widths)))
    named = set[str]()  # in the legend
    for index, info in enumerate(infos):
        for method, widths in info.widths.items():
            figure.add_bar(
                x=info.layers,
                y=widths,
                name=method_label(method),
                marker={"color": styles[method].colour},
                legendgroup=method,
                showlegend=method not in named,
                hovertemplate="%{x}: %{y}<extra>%{fullData.name}</extra>",
                row=index // columns + 1,
                col=index % columns + 1,
            )
            named.add(method)
    figure.update_yaxes(title="width").update_xaxes(automargin=True)
    return figure.update_layout(height=_ROW_HEIGHT * rows + 100, legend={"y": -0.2 / rows})
