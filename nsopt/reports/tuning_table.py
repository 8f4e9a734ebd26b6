"""A table of a tuning study's trials."""

from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nsopt.storage import trials

_PARAMETERS = {"pretrain_epochs": "P"}  # in fewer letters
_OUTCOMES = {"params": "parameters", "test_score": "test"}


def _format(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def name_parameters(trial: FrozenTrial) -> str:
    """Return the tuned parameters of a trial in a few words, such as `P 5`."""
    params = trial.params.items()
    return ", ".join(f"{_PARAMETERS.get(name, name)} {_format(value)}" for name, value in params)


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
        state = "pruned" if trial.state == TrialState.PRUNED else "failed"
        results = trial.values or [state] * len(metric_names)
        values: list[Any] = [trial.params.get(name) for name in names]
        seed = str(numbers["seed"])
        return [_format(v) for v in (*values, seed, *results, *map(numbers.get, extra))]

    def place(trial: FrozenTrial) -> tuple[float, ...]:
        return (*(trial.params.get(name, -np.inf) for name in names), trial.number)

    done.sort(key=place)
    named = (_PARAMETERS.get(name, name) for name in names)
    columns = [*named, "seed", *metric_names, *(_OUTCOMES[name] for name in extra)]
    return columns, [row(trial) for trial in done]
