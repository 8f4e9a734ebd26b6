"""Figure of the widths per layer and method at each budget."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nsopt.methods.registry import method_label
from nsopt.reports.results import Results
from nsopt.reports.style import apply_style, method_styles
from nsopt.reports.tables import size_of, with_ordered_metrics

_COLUMNS = 2
_ROW_HEIGHT = 320


def draw_widths(results: Results) -> go.Figure:
    """Draw a panel of bars per metric and budget, smallest first, of those with most methods.

    The widths are those of each method's first seed.
    """
    compared, layers = set(results.compared), list(results.task.layer_names)
    by_size = with_ordered_metrics(results.outcomes).groupby(["metric", "budget"], observed=True)
    panels = [trials for size, trials in by_size if size in compared]
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    titles = [size_of(trials.iloc[0].to_dict()) for trials in panels]
    figure = make_subplots(rows, columns, subplot_titles=titles)
    apply_style(figure)
    styles, named = method_styles(results.methods), set[str]()  # in the legend
    for index, trials in enumerate(panels):
        first = trials.sort_values("seed").groupby("method")["widths"].first()
        for method in filter(first.index.__contains__, results.methods):
            figure.add_bar(
                x=layers,
                y=list(first[method]),
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
