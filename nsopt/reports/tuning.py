"""Tuning studies: a table of trials, and a note and a figure for optuna-dashboard."""

from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nsopt.reports.dashboard import describe_protocol, escape_text, make_markdown_table
from nsopt.reports.style import apply_style
from nsopt.storage import schema, trials
from nsopt.storage.studies import quiet_optuna
from nsopt.tuning.best import best_trial, scores_of

_QUESTIONS = {
    "pretrain-epochs": "How many epochs P should a network train before it is pruned?",
    "eta": "For which eta does Algorithm 3 end near the budget, in few steps?",
}
_PARAMETERS = {"pretrain_epochs": "P"}  # in fewer letters
_OUTCOMES = {"params": "parameters", "test_score": "test"}


def publish_tuning(study: Study) -> None:
    """Save a note and a figure in the study, replacing older ones."""
    from optuna_dashboard import save_note, save_plotly_graph_object  # noqa: PLC0415

    save_note(study, tuning_note(study))
    figure = draw_tuning(study)
    save_plotly_graph_object(study, figure, graph_object_id="tuning")


def draw_tuning(study: Study) -> go.Figure:
    """Draw the front of two objectives, or scores over the parameters of a law."""
    names = study.metric_names or []
    with quiet_optuna():  # it warns of a study without completed trials
        if len(study.directions) > 1:
            figure = optuna.visualization.plot_pareto_front(study, target_names=names)
        else:
            figure = optuna.visualization.plot_slice(study, target_name=names[0])
    return apply_style(figure).update_layout(title=None)


def tuning_note(study: Study) -> str:
    """Return a note in Markdown: question, protocol, one row per trial."""
    settings, (_, kind) = schema.read_settings(study), schema.split_name(study.study_name)
    has_best = bool(trials.read_completed(study))
    parts = [
        f"# {escape_text(study.study_name)}",
        next(text for over, text in _QUESTIONS.items() if kind.startswith(over)),
        f"**{escape_text(f'Best: {describe_best(study)}')}**" if has_best else "",
        describe_protocol(settings, "search"),
        describe_protocol(settings, "training"),
        make_markdown_table(tuning_rows(study)),
    ]
    return "\n\n".join(filter(None, parts))


def _format(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _signed_distance(trial: FrozenTrial) -> str:
    """Return how far Algorithm 3 ended above the budget, or below it, in percent of it."""
    distance = trial.values[0]
    return f"{-distance if trials.read_outcome(trial)['feasible'] else distance:+.2%}"


def name_parameters(trial: FrozenTrial) -> str:
    """Return the tuned parameters of a trial in a few words, such as `P 5`."""
    params = trial.params.items()
    return ", ".join(f"{_PARAMETERS.get(name, name)} {_format(value)}" for name, value in params)


def describe_best(study: Study) -> str:
    """Return the best parameters and what they reach, such as `P 5: 61.2 (mean of 2 seeds)`.

    Raises:
        NsoptError: if no trial completed.
    """
    best, done = best_trial(study), trials.read_completed(study)
    name = name_parameters(best)
    if "eta" in best.params:
        return f"{name}: {_signed_distance(best)} from the budget after {best.values[1]:.0f} steps"
    scores = scores_of(best, done)
    fewer = [trial for trial in done if len(scores_of(trial, done)) < len(scores)]
    names = ", ".join(dict.fromkeys(map(name_parameters, fewer)))
    left_out = f"; not compared, with fewer seeds: {names}" if fewer else ""
    count = f"mean of {len(scores)} seeds" if len(scores) > 1 else "one seed"
    metric = (study.metric_names or ["score"])[0]
    return f"{name}: {metric} {np.mean(scores):.4g} ({count}){left_out}"


def tuning_rows(study: Study) -> list[dict[str, str]]:
    """Return a row per finished trial, sorted by parameters. Pruned and failed trials have no
    values."""
    objectives = study.metric_names or []
    shown = [f"{name} (validation)" if name in _OUTCOMES.values() else name for name in objectives]
    done = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trials.is_of_tuning(trial) and trial.state.is_finished() and trials.is_settled(trial)
    ]
    names = sorted({name for trial in done for name in trial.params})
    done.sort(
        key=lambda trial: [*(trial.params.get(name, -np.inf) for name in names), trial.number]
    )
    outcomes = [trials.read_outcome(trial) for trial in done]
    extra = [name for name in _OUTCOMES if any(of[name] is not None for of in outcomes)]
    rows = []
    for trial, numbers in zip(done, outcomes, strict=True):
        state = "diverged" if trial.state == TrialState.PRUNED else "failed"
        results: list[Any] = trial.values or [state] * len(objectives)
        if trial.values and numbers["feasible"] is not None:  # of eta
            results = [_signed_distance(trial), *trial.values[1:]]
        row = (
            {_PARAMETERS.get(name, name): trial.params.get(name) for name in names}
            | {"seed": str(numbers["seed"])}
            | dict(zip(shown, results, strict=False))
            | {_OUTCOMES[name]: numbers[name] for name in extra}
        )
        rows.append({name: _format(value) for name, value in row.items()})
    return rows
