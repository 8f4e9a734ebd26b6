"""Tuning studies: a table of trials, and the best one in words."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nsopt.errors import NsoptError
from nsopt.session.workspace import Workspace
from nsopt.storage import schema, trials
from nsopt.storage.urls import hide_password

_PARAMETERS = {"pretrain_epochs": "P"}  # in fewer letters
_OUTCOMES = {"params": "parameters", "test_score": "test"}


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
        if trials.is_of_tuning(trial)
        and trial.state.is_finished()
        and not trials.needs_retry(trial)
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


def best_trial(study: Study) -> FrozenTrial:
    """Return the trial with the highest accuracy, as a mean over seeds, or the best eta.

    The best eta ends nearest to the budget, and within it if any does; of equal ones, after the
    fewest steps. Of equally good P, the smallest wins.

    Raises:
        NsoptError: if no trial completed.
    """
    done = trials.read_completed(study)
    if not done:
        reason = next(filter(None, map(trials.read_failure, study.trials)), "none ran")
        raise NsoptError(
            f"no trial of {study.study_name} completed ({reason}): give other settings, and "
            "another out= or storage="
        )
    if study.directions[0] == StudyDirection.MINIMIZE:
        return min(done, key=lambda t: (not trials.read_outcome(t)["feasible"], t.values))

    def mean_accuracy(trial: FrozenTrial) -> tuple[int, float]:
        same = scores_of(trial, done)
        return len(same), sum(same) / len(same)  # fewer seeds are no fair comparison

    return max(sorted(done, key=lambda t: t.params.get("pretrain_epochs", 0)), key=mean_accuracy)


def scores_of(trial: FrozenTrial, done: Iterable[FrozenTrial]) -> list[float]:
    """Return the scores of the completed trials with the parameters of `trial`, one per seed."""
    return [repeat.values[0] for repeat in done if repeat.params == trial.params]


def best_settings(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return the best settings of a tuning study, as changes for `override`.

    Args:
        name: ARCH-DATA-PRESET-tune/KIND.

    Raises:
        NsoptError: if the study is missing or has no completed trial.
    """
    prefix, kind = schema.split_name(name)
    study = workspace.studies(prefix).get(kind) if schema.is_tuning(prefix) else None
    if study is None:
        raise NsoptError(
            f"no tuning study {name!r} is stored at {hide_password(workspace.url)}: "
            "run nsopt tune first"
        )
    parameters = best_trial(study).params
    if "pretrain_epochs" in parameters:
        return {"search": parameters}
    return {name: value for name, value in parameters.items() if name == "eta"}
