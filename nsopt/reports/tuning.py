"""What optuna-dashboard shows of a tuning study: a note with its trials, and its front."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nsopt.reports.dashboard import markdown_table, plain_text, protocol_text
from nsopt.storage import schema, trials

_QUESTIONS = {
    "pretrain-epochs": "How many epochs P should a network train before it is pruned?",
    "eta": "For which eta does Algorithm 3 end near the budget, and soon?",
    "curve": "Which law of the family of uniform scaling and searched laws trains best?",
    "both": "Which P and eta give the widths that train best?",
}


def publish_tuning(study: Study, metric_names: Sequence[str]) -> None:
    """Save a note and a figure in the study, replacing older ones."""
    from optuna_dashboard import save_note, save_plotly_graph_object  # noqa: PLC0415

    save_note(study, tuning_note(study, metric_names))
    _, kind = schema.split_name(study.study_name)
    if len(study.directions) > 1:
        figure = optuna.visualization.plot_pareto_front(study, target_names=list(metric_names))
    elif schema.is_curve(kind):
        figure = optuna.visualization.plot_slice(study)
    else:
        figure = optuna.visualization.plot_intermediate_values(study)
    save_plotly_graph_object(study, figure, graph_object_id="tuning")


def tuning_note(study: Study, metric_names: Sequence[str]) -> str:
    """Markdown: question, protocol, one row per trial."""
    _, kind = schema.split_name(study.study_name)
    question = next(text for over, text in _QUESTIONS.items() if kind.startswith(over))
    names, rows = tuning_rows(study, metric_names)
    settings = schema.read_settings(study)
    parts = [
        f"# {plain_text(study.study_name)}",
        question,
        protocol_text(settings, "search"),
        protocol_text(settings, "training"),
        markdown_table(names, rows),
    ]
    verdict = schema.read_verdict(study)
    if verdict is not None:
        parts.insert(2, f"**{plain_text(verdict)}**")
    return "\n\n".join(parts)


def tuning_rows(study: Study, metric_names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and a row per completed trial in the order of its parameters."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = sorted({name for trial in done for name in trial.params})
    outcomes = {trial.number: trials.read_outcome(trial) for trial in done}
    extra = [
        name
        for name in ("params", "test_accuracy")
        if all(numbers[name] is not None for numbers in outcomes.values())
    ]

    def row(trial: FrozenTrial) -> list[str]:
        numbers = outcomes[trial.number]
        values: list[Any] = [trial.params[name] for name in names]
        values += [numbers["seed"], *trial.values, *(numbers[name] for name in extra)]
        return [f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" for value in values]

    done.sort(key=lambda trial: (*(trial.params[name] for name in names), trial.number))
    return [*names, "seed", *metric_names, *extra], [row(trial) for trial in done]
