"""Store a note and a figure in a tuning study, for optuna-dashboard."""

import optuna
import plotly.graph_objects as go
from optuna.study import Study

from nsopt.reports.dashboard import describe_protocol, escape_text, make_markdown_table
from nsopt.reports.style import apply_style
from nsopt.reports.tuning_table import tuning_rows
from nsopt.scaling.metric import METRICS
from nsopt.storage import schema

_QUESTIONS = {
    "pretrain-epochs": "How many epochs P should a network train before it is pruned?",
    "eta": "For which eta does Algorithm 3 end near the budget, in few steps?",
    "scores": "Which law stays closest to the trained network at a budget?",
}
_AXES = {
    "pretrain_epochs": "P, epochs before pruning",
    "eta": "eta, step size of Algorithm 3",
    "slope": "slope: more width in later layers",
    **{price: f"weight of the law pruned by {price}" for price in ("filters", *METRICS)},
}


def publish_tuning(study: Study) -> None:
    """Save a note and a figure in the study, replacing older ones."""
    from optuna_dashboard import save_note, save_plotly_graph_object  # noqa: PLC0415

    save_note(study, tuning_note(study))
    figure = draw_tuning(study)
    save_plotly_graph_object(study, figure, graph_object_id="tuning")


def draw_tuning(study: Study) -> go.Figure:
    """Draw the front of two objectives, or scores over the parameters of a law."""
    metric_names = study.metric_names or []
    if len(study.directions) > 1:
        figure = optuna.visualization.plot_pareto_front(study, target_names=metric_names)
    else:
        figure = optuna.visualization.plot_slice(study, target_name=metric_names[0])
        figure.update_traces(marker={"colorscale": "Cividis", "size": 9})
        for axis in figure.select_xaxes():
            axis.title.text = _AXES.get(axis.title.text, axis.title.text)
    return apply_style(figure).update_layout(title=None)


def question(study: Study) -> str:
    """Return the question that a tuning study answers."""
    _, kind = schema.split_name(study.study_name)
    return next(text for over, text in _QUESTIONS.items() if kind.startswith(over))


def tuning_note(study: Study) -> str:
    """Return a note in Markdown: question, protocol, one row per trial."""
    names, rows = tuning_rows(study)
    settings = schema.read_settings(study)
    parts = [
        f"# {escape_text(study.study_name)}",
        question(study),
        describe_protocol(settings, "search"),
        describe_protocol(settings, "training"),
        make_markdown_table(names, rows),
    ]
    verdict = schema.read_verdict(study)
    if verdict is not None:
        parts.insert(2, f"**{escape_text(verdict)}**")
    return "\n\n".join(parts)
