"""Tuning a scaling curve: an Optuna study over the family of laws that searches span.

Cheap trainings at small budgets, with common seeds, find the member that trains best; fresh seeds
confirm that it beats uniform scaling, or else the result is uniform scaling.
"""

from dataclasses import dataclass, replace

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nsopt.compute.device import Compute, describe_device, resolve_compute
from nsopt.errors import NsoptError
from nsopt.experiments.curve_request import FRESH_SEED, CurveTuning
from nsopt.experiments.curve_trial import CurveRunner
from nsopt.experiments.searching import continue_search
from nsopt.experiments.sharing import sharing
from nsopt.experiments.workspace import Workspace
from nsopt.progress import Progress
from nsopt.storage import schema, trials
from nsopt.storage.provenance import provenance
from nsopt.storage.queue import Watch, claim, run
from nsopt.storage.studies import has_unfinished, open_study
from nsopt.storage.trials import TuningPoint

METRIC_NAME = "validation accuracy (%)"
_LEVEL = 0.1


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
        if not self.differences:
            return "nothing tried was better than uniform"
        mean = float(np.mean(self.differences))
        verdict = "confirmed" if self.holds else "no better than uniform"
        return (
            f"{verdict}: {mean:+.2f} points on uniform with {len(self.differences)} fresh seeds "
            f"(one-sided paired t-test, p = {self.p:.2f})"
        )


def tune_curve(
    tuning: CurveTuning, workspace: Workspace, progress: Progress
) -> tuple[Study, Confirmation]:
    """Run what is missing, confirm, and keep the law; calling again continues. NsoptError."""
    training = tuning.task.settings.training
    with sharing(resolve_compute(training.device, training.precision)) as compute:
        laws = {
            price: continue_search(tuning.task, workspace, 1, compute, progress, price)[0].law
            for price in tuning.prices
        }
        family = tuning.family(laws)
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
        points = {TuningPoint(0, index=i): _start(tuning, i) for i in range(tuning.trials)}
        _run_missing(study, points, runner)
        best = _best(study).params
        confirmation = _confirm(tuning, best, workspace, runner)
        law = family.law(confirmation.parameters if confirmation.holds else {})
        schema.write_law(study, law)
        schema.write_verdict(study, str(confirmation))
    workspace.clear(tuning.study_name)
    workspace.clear(tuning.confirmation_name)
    return study, confirmation


def _start(tuning: CurveTuning, index: int) -> dict[str, float]:
    """The parameters with which a trial is enqueued; empty where the sampler proposes them."""
    if index >= len(tuning.starts):
        return {}
    names = (*tuning.prices, "slope")
    return {name: tuning.starts[index].get(name, 0.0) for name in names}


def _confirm(
    tuning: CurveTuning, best: dict[str, float], workspace: Workspace, runner: CurveRunner
) -> Confirmation:
    """Train the best member and uniform scaling with fresh seeds, in a study of their own."""
    from scipy.stats import ttest_rel  # noqa: PLC0415  (slow to import)

    if not any(best.values()):
        return Confirmation(best, (), 1.0)
    study = _open(tuning, tuning.confirmation_name, workspace, runner.compute)
    uniform = dict.fromkeys(best, 0.0)
    seeds = range(FRESH_SEED, FRESH_SEED + tuning.confirmations)
    points = {
        TuningPoint(seed, index=index): parameters
        for seed in seeds
        for index, parameters in enumerate((uniform, best))
    }
    _run_missing(study, points, replace(runner, study_name=study.study_name, seeds=1))
    accuracy = {
        (trials.read_seed(trial), any(trial.params.values())): trial.values[0]
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.params in (best, uniform)
    }
    pairs = [(accuracy[s, True], accuracy[s, False]) for s in seeds if (s, True) in accuracy]
    tuned, plain = np.array(pairs).T
    p = float(np.nan_to_num(ttest_rel(tuned, plain, alternative="greater").pvalue, nan=1.0))
    return Confirmation(best, tuple((tuned - plain).tolist()), p)


def _run_missing(
    study: Study, points: dict[TuningPoint, dict[str, float]], runner: CurveRunner
) -> None:
    """Run the points without a settled trial; what other processes run is waited for."""
    watch = Watch()
    while missing := _missing(study, points):
        for point in missing:
            trials.enqueue_point(study, point, points[point])
        while has_unfinished(study):
            claimed = claim(study, runner)
            if claimed is not None:
                run(study, claimed, runner)
            elif watch.look(study):
                runner.progress.message("waiting for a trial of another process")
                watch.wait()


def _missing(study: Study, points: dict[TuningPoint, dict[str, float]]) -> list[TuningPoint]:
    stored = study.get_trials(deepcopy=False)
    settled = {trials.read_tuning_point(trial) for trial in stored if trials.is_settled(trial)}
    return [point for point in points if point not in settled]


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
        provenance(describe_device(compute.device), compute.precision),
        [METRIC_NAME],
        [StudyDirection.MAXIMIZE],
    )
