"""What a comparison left in storage, as tables."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nsopt.errors import NsoptError
from nsopt.pruning.record import Iteration
from nsopt.tuning import schema
from nsopt.tuning.storage import load_studies, only_comparison, open_storage, shown, storage_exists

_ORDER = ("uniform", "magnitude", "morphnet", "neuralscale")


@dataclass(frozen=True, eq=False)
class Results:
    """A comparison as it was measured.

    outcomes: one row per completed trial, the columns of the schema and `widths` (a tuple);
    failures: method, label and reason of the trials that failed; curves: per-epoch numbers, a row
    per trial and epoch; iterations: of the search, first to last.
    """

    name: str
    subject: schema.Subject
    settings: dict[str, Any]
    provenance: dict[str, dict[str, Any]]
    outcomes: pd.DataFrame
    failures: pd.DataFrame
    curves: pd.DataFrame
    iterations: list[Iteration]

    @property
    def methods(self) -> list[str]:
        """Methods with outcomes, baselines first."""
        found = set(self.outcomes["method"])
        return [m for m in _ORDER if m in found] + sorted(found - set(_ORDER))


def read_results(url: str, name: str | None = None) -> Results:
    """The comparison `name` (ARCH-DATA-PRESET) in a storage; None where it holds only one.

    Raises NsoptError if there is no such comparison, or no completed trial in it.
    """
    if not storage_exists(url):
        raise NsoptError(f"nothing is stored at {url}: run a study first")
    storage = open_storage(url)
    name = name or only_comparison(storage)
    studies = load_studies(storage, name)
    compared = {method: study for method, study in studies.items() if method != schema.SEARCH}
    trials = [
        (study, trial)
        for study in compared.values()
        for trial in study.get_trials(deepcopy=False)
        if schema.read_point(trial) is not None
    ]
    done = [(study, trial) for study, trial in trials if trial.state == TrialState.COMPLETE]
    failures = [_failure(trial) for _, trial in trials if schema.ERROR in trial.user_attrs]
    if not done and failures:
        first = f"{failures[0]['label']}: {failures[0]['reason']}"
        raise NsoptError(f"every training of {name} failed: {first}")
    if not done:
        raise NsoptError(f"no completed trial of {name} at {shown(url)}: nothing to report on")
    subject = schema.read_subject(done[0][0])
    return Results(
        name=name,
        subject=subject,
        settings=schema.read_settings(done[0][0]),
        provenance={method: schema.read_provenance(study) for method, study in studies.items()},
        outcomes=pd.DataFrame([_outcome(trial, subject) for _, trial in done]),
        failures=pd.DataFrame(failures, columns=["label", "reason"]),
        curves=pd.concat([_curves(trial) for _, trial in done], ignore_index=True),
        iterations=_iterations(studies),
    )


def _iterations(studies: dict[str, Study]) -> list[Iteration]:
    return schema.read_iterations(studies[schema.SEARCH]) if schema.SEARCH in studies else []


def _outcome(trial: FrozenTrial, subject: schema.Subject) -> dict[str, Any]:
    values = {name: trial.user_attrs.get(name) for name in schema.OUTCOME_COLUMNS}
    return values | {"widths": schema.read_widths(trial, subject.layer_names)}


def _failure(trial: FrozenTrial) -> dict[str, str]:
    point = schema.read_point(trial)
    label = point.label if point else f"trial {trial.number}"
    return {"label": label, "reason": trial.user_attrs[schema.ERROR]}


def _curves(trial: FrozenTrial) -> pd.DataFrame:
    frame = pd.DataFrame(schema.read_curves(trial))
    for position, name in enumerate(("method", "budget", "seed")):
        frame.insert(position, name, trial.user_attrs[name])
    frame.insert(3, "epoch", range(1, len(frame) + 1))
    return frame
