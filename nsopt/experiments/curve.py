"""Tuning a scaling curve: an Optuna study over the family of laws that searches span.

Cheap trainings at small budgets, with common seeds, find the member that trains best; fresh seeds
confirm that it beats uniform scaling, or else the result is uniform scaling.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nsopt.compute.device import Compute, resolve_compute
from nsopt.errors import NsoptError
from nsopt.experiments.curve_request import FRESH_SEED, CurveTuning
from nsopt.experiments.curve_trial import CurveRunner
from nsopt.experiments.searching import continue_searches
from nsopt.experiments.sharing import sharing
from nsopt.experiments.tuning_points import run_points
from nsopt.experiments.workspace import Workspace
from nsopt.progress import Progress
from nsopt.scaling.family import LawFamily
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.provenance import provenance
from nsopt.storage.studies import open_study
from nsopt.storage.trials import TuningPoint

METRIC_NAME = "validation accuracy (%)"
_LEVEL = 0.1
_UNIFORM = 0  # the index of the first start


@dataclass(frozen=True)
class Confirmation:
    """The best member against uniform scaling, with fresh seeds.

    parameters: of the member; differences: of their validation accuracies, a seed each, in points;
    p: of a one-sided paired t-test that their mean is not above 0.
    """

    parameters: dict[str, float]
    differences: tuple[float, ...]
    p: float

    @property
    def holds(self) -> bool:
        return self.p < _LEVEL

    def __str__(self) -> str:
        if not any(self.parameters.values()) and not self.differences:
            return "nothing tried was better than uniform"
        if not self.differences:
            return "no better than uniform: no training with a fresh seed succeeded"
        mean = float(np.mean(self.differences))
        verdict = "confirmed" if self.holds else "no better than uniform"
        p = f"p = {self.p:.2f}" if self.p >= 0.01 else "p < 0.01"
        return (
            f"{verdict}: {mean:+.2f} points on uniform with {len(self.differences)} fresh seeds "
            f"(one-sided paired t-test, {p})"
        )


def tune_curve(
    tuning: CurveTuning, workspace: Workspace, progress: Progress
) -> tuple[Study, Confirmation]:
    """Run what is missing, confirm, and keep the law; calling again continues. NsoptError."""
    training = tuning.task.settings.training
    with sharing(resolve_compute(training.device, training.precision)) as compute:
        needed: dict[Price | None, int] = dict.fromkeys(tuning.prices, 1)
        found = continue_searches(tuning.task, workspace, needed, compute, progress)
        family = tuning.family({price: found[price][0].law for price in tuning.prices})
        runner = CurveRunner(
            tuning,
            tuning.study_name,
            tuning.seeds,
            family,
            workspace,
            compute,
            tuning.task.splits.to(compute.device),
            progress,
        )
        study = _open(tuning, tuning.study_name, workspace, compute)
        first = training.seed
        points = {
            TuningPoint(first, index=i): _start(tuning, family, i) for i in range(tuning.trials)
        }
        run_points(study, points, runner, progress)
        confirmation = _confirm(tuning, _best(study), workspace, runner)
        law = family.law(confirmation.parameters if confirmation.holds else {})
        schema.write_law(study, law)
        schema.write_verdict(study, str(confirmation))
    workspace.clear(tuning.study_name)
    workspace.clear(tuning.confirmation_name)
    return study, confirmation


def _start(tuning: CurveTuning, family: LawFamily, index: int) -> dict[str, float]:
    """The parameters with which a trial is enqueued; empty where the sampler proposes them."""
    if index >= len(tuning.starts):
        return {}
    return dict.fromkeys(family.parameters, 0.0) | tuning.starts[index]


def _confirm(
    tuning: CurveTuning, best: FrozenTrial, workspace: Workspace, runner: CurveRunner
) -> Confirmation:
    """Train the best member and uniform scaling with fresh seeds, in a study of their own.

    A member goes by the index that it had when it was found, so that a later one is not taken for
    it; uniform scaling was the first.
    """
    if not any(best.params.values()):
        return Confirmation(best.params, (), 1.0)
    study = _open(tuning, tuning.confirmation_name, workspace, runner.compute)
    index = trials.read_tuning_point(best).index
    members = {_UNIFORM: dict.fromkeys(best.params, 0.0), index: best.params}
    first = FRESH_SEED + tuning.task.settings.training.seed
    seeds = range(first, first + tuning.confirmations)
    points = {
        TuningPoint(seed, index=member): parameters
        for seed in seeds
        for member, parameters in members.items()
    }
    fresh = replace(runner, study_name=study.study_name, seeds=1)
    run_points(study, points, fresh, runner.progress)
    accuracy = {
        trials.read_tuning_point(trial): trial.values[0]
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    }
    pairs = [tuple(TuningPoint(seed, index=i) for i in (index, _UNIFORM)) for seed in seeds]
    differences = [
        accuracy[one] - accuracy[two] for one, two in pairs if {one, two} <= set(accuracy)
    ]
    if len(differences) < 2:
        return Confirmation(best.params, tuple(differences), 1.0)
    return Confirmation(best.params, tuple(differences), _p_of_no_gain(differences))


def _p_of_no_gain(differences: Sequence[float]) -> float:
    """Of a one-sided paired t-test: that differences as large come from a mean of 0 or less."""
    from scipy.special import stdtr  # noqa: PLC0415  (slow to import)

    mean, deviation = np.mean(differences), np.std(differences, ddof=1)
    if deviation == 0:
        return 0.0 if mean > 0 else 1.0
    count = len(differences)
    return float(stdtr(count - 1, -mean / deviation * np.sqrt(count)))


def _best(study: Study) -> FrozenTrial:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        raise NsoptError(f"every trial of {study.study_name} failed: see its trials for reasons")
    return max(done, key=lambda trial: trial.values[0])


def _open(tuning: CurveTuning, name: str, workspace: Workspace, compute: Compute) -> Study:
    return open_study(
        workspace.storage,
        name,
        tuning.task.description,
        tuning.task.source,
        tuning.identity,
        provenance(compute),
        [METRIC_NAME],
        [StudyDirection.MAXIMIZE],
    )
