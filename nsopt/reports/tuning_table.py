"""A table of a tuning study's trials, and which of them is best."""

from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nsopt.storage import trials
from nsopt.tuning.best import best_trial, scores_of

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


def tuning_rows(study: Study) -> tuple[list[str], list[list[str]]]:
    """Return column names, and a row per finished trial, sorted by parameters. Pruned and failed
    trials have no values."""
    metric_names = study.metric_names or []
    done = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trials.is_of_tuning(trial) and trial.state.is_finished() and trials.is_settled(trial)
    ]
    names = sorted({name for trial in done for name in trial.params})
    outcomes = {trial.number: trials.read_outcome(trial) for trial in done}
    extra = [
        name
        for name in _OUTCOMES
        if any(numbers[name] is not None for numbers in outcomes.values())
    ]

    def row(trial: FrozenTrial) -> list[str]:
        numbers = outcomes[trial.number]
        state = "diverged" if trial.state == TrialState.PRUNED else "failed"
        results: list[Any] = trial.values or [state] * len(metric_names)
        if trial.values and numbers["feasible"] is not None:  # of eta
            results = [_signed_distance(trial), *trial.values[1:]]
        values: list[Any] = [trial.params.get(name) for name in names]
        seed = str(numbers["seed"])
        return [_format(v) for v in (*values, seed, *results, *map(numbers.get, extra))]

    def place(trial: FrozenTrial) -> tuple[float, ...]:
        return (*(trial.params.get(name, -np.inf) for name in names), trial.number)

    done.sort(key=place)
    named = (_PARAMETERS.get(name, name) for name in names)
    columns = [*named, "seed", *metric_names, *(_OUTCOMES[name] for name in extra)]
    return columns, [row(trial) for trial in done]
