"""Tuning a scaling law: an Optuna study over the family of laws that searches span.

Cheap trainings at small budgets, with common seeds, find the member that trains best; fresh seeds
confirm that it beats uniform scaling, or else the result is uniform scaling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from nsopt.compute.device import Compute, resolve_compute
from nsopt.errors import DeterministicError, NsoptError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.pruning.rules import get_size_metric
from nsopt.scaling.family import SLOPE, LawFamily, relative, relative_uniform
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import Metric, counted_costs
from nsopt.scaling.solve import solve_widths
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.provenance import provenance
from nsopt.storage.studies import open_study
from nsopt.storage.trials import TuningPoint
from nsopt.study.comparison import Size
from nsopt.study.equal_training import equal_tuning_trainings
from nsopt.study.searching import continue_searches
from nsopt.study.session import Session, start_session
from nsopt.study.task import Task
from nsopt.study.unfinished import clear_pretrained
from nsopt.study.workspace import Workspace
from nsopt.tuning.points import run_points

Sampler = Literal["gp", "tpe"]
FRESH_SEED = 1000  # by how much the seeds of the confirmation are higher
METRIC_NAME = "validation accuracy (%)"
RANGES = {SLOPE: (-1.5, 1.5)}
WEIGHTS = (-1.0, 1.5)
_LEVEL = 0.1
_UNIFORM = 0  # the index of the first start


@dataclass(frozen=True, eq=False, kw_only=True)
class CurveTuning:
    """Which law trains best at small budgets?

    sizes: the budgets, in the unit of `metric`; every trial trains its widths at each of them with
    `seeds` seeds, from that of the settings on, for `epochs`; the best is confirmed against uniform
    scaling with `confirmations` fresh seeds.
    """

    task: Task
    metric: Metric
    sizes: tuple[Size, ...]
    trials: int
    seeds: int
    epochs: int
    confirmations: int
    sampler: Sampler = "gp"

    @property
    def study_name(self) -> str:
        return schema.study_name(
            schema.tuning_name(self.task.name), schema.curve_kind(self.metric.name)
        )

    @property
    def confirmation_name(self) -> str:
        return schema.confirmation_name(self.study_name)

    @property
    def prices(self) -> tuple[Price, ...]:
        """Of the searches whose laws span the family: the published one, and by the metric."""
        return ("filters", cast("Price", self.metric.name))

    @property
    def starts(self) -> tuple[dict[str, float], ...]:
        """The members that are tried first: uniform scaling and the pure laws."""
        return ({}, *({str(price): 1.0} for price in self.prices))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What its numbers depend on, beside the parameters of a trial."""
        tuned = {
            "metric": self.metric.name,
            "budgets": [size.budget for size in self.sizes],
            "seeds": self.seeds,
            "epochs": self.epochs,
        }
        return self.task.identity | {"tuning": tuned}


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


def law_family(arch: Architecture, laws: Mapping[Price, PowerLaw]) -> LawFamily:
    """Return the family of the laws of searches, around uniform scaling.

    Args:
        laws: by the price of their search, over tau.
    """
    others = {
        str(price): relative(law, get_size_metric(price).cost(arch), arch.base_widths)
        for price, law in laws.items()
    }
    return LawFamily(relative_uniform(arch.base_widths), others)


def tune_curve(
    tuning: CurveTuning, workspace: Workspace, progress: Progress
) -> tuple[Study, Confirmation]:
    """Run what is missing, confirm, and store the law; calling again continues.

    Raises:
        NsoptError: if a search or every training fails, or if other settings wrote the storage.
    """
    training = tuning.task.settings.training
    compute = resolve_compute(training.device, training.precision)
    with start_session(tuning.task, workspace, compute, progress) as session:
        needed: dict[Price | None, int] = dict.fromkeys(tuning.prices, 1)
        found = continue_searches(session, needed)
        laws = {price: found[price][0].law for price in tuning.prices}
        family = law_family(tuning.task.arch, laws)
        runner = CurveRunner(session, tuning, tuning.study_name, tuning.seeds, family)
        study = _open(tuning, tuning.study_name, session)
        first = training.seed
        points = {
            TuningPoint(first, index=i): _start(tuning, family, i) for i in range(tuning.trials)
        }
        run_points(study, points, runner, progress)
        confirmation = _confirm(tuning, _best(study), runner)
        law = family.law(confirmation.parameters if confirmation.holds else {})
        schema.write_law(study, law)
        schema.write_verdict(study, str(confirmation))
        clear_pretrained(session)
    workspace.clear(tuning.study_name)
    workspace.clear(tuning.confirmation_name)
    return study, confirmation


def _start(tuning: CurveTuning, family: LawFamily, index: int) -> dict[str, float]:
    """The parameters with which a trial is enqueued; empty where the sampler proposes them."""
    if index >= len(tuning.starts):
        return {}
    return dict.fromkeys(family.parameters, 0.0) | tuning.starts[index]


def _confirm(tuning: CurveTuning, best: FrozenTrial, runner: "CurveRunner") -> Confirmation:
    """Train the best member and uniform scaling with fresh seeds, in a study of their own.

    A member goes by the index that it had when it was found, so that a later one is not taken for
    it; uniform scaling was the first.
    """
    if not any(best.params.values()):
        return Confirmation(best.params, (), 1.0)
    study = _open(tuning, tuning.confirmation_name, runner.session)
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
    run_points(study, points, fresh, runner.session.progress)
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


def _open(tuning: CurveTuning, name: str, session: Session) -> Study:
    return open_study(
        session.workspace.storage,
        name,
        tuning.task.description,
        tuning.task.source,
        tuning.identity,
        provenance(session.compute),
        [METRIC_NAME],
        [StudyDirection.MAXIMIZE],
    )


@dataclass(frozen=True, eq=False)
class CurveRunner:
    """Runs the trials of a curve's tuning, or of its confirmation; the `Work` of their queues.

    study_name: whose trials these are; seeds: trained in each trial, from the one it was enqueued
    with.
    """

    session: Session
    tuning: CurveTuning
    study_name: str
    seeds: int
    family: LawFamily

    @property
    def compute(self) -> Compute:
        return self.session.compute

    def point(self, trial: FrozenTrial) -> TuningPoint:
        return trials.read_tuning_point(trial)

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Its proposals follow from the results so far and the index of the trial."""
        return make_sampler(self.tuning.sampler, trials.read_tuning_point(trial).index or 0)

    def failed(self, trial: FrozenTrial, error: DeterministicError) -> None:
        self.session.progress.message(f"trial {trial.number}: {error}")

    def run(self, trial: Trial) -> list[float]:
        """The mean validation accuracy over sizes and seeds."""
        parameters = {
            name: trial.suggest_float(name, *RANGES.get(name, WEIGHTS))
            for name in self.family.parameters
        }
        first = trials.read_seed(trial)
        networks = self._networks(self.family.law(parameters))
        trainings = [(w, seed) for w in networks for seed in range(first, first + self.seeds)]
        accuracies = self._accuracies(trial.study, trainings)
        accuracy = sum(accuracies) / len(accuracies)
        keys = [trials.training_key(*training) for training in trainings]
        trials.write_trainings(trial, dict(zip(keys, accuracies, strict=True)))
        numbers = counted_costs(self.tuning.task.arch, networks[-1])
        numbers |= {"widths": schema.width_key(networks[-1]), "val_accuracy": accuracy}
        trials.write_outcome(trial, numbers, {})
        shown = ", ".join(f"{name} {value:.2f}" for name, value in parameters.items())
        self.session.progress.message(f"{shown}: validation {accuracy:.2f} %")
        return [accuracy]

    def _networks(self, law: PowerLaw) -> list[tuple[int, ...]]:
        """The widths along a law at each size."""
        task, metric = self.tuning.task, self.tuning.metric
        cost, rounding = metric.cost(task.arch), task.settings.rounding(metric.name)
        fits = [solve_widths(law, cost, size.budget, *rounding) for size in self.tuning.sizes]
        return [tuple(fit.widths.tolist()) for fit in fits]

    def _accuracies(
        self, study: Study, trainings: Sequence[tuple[tuple[int, ...], int]]
    ) -> list[float]:
        """Of trainings of widths with a seed, those that are not known yet run now."""
        known = equal_tuning_trainings(study, self.session.workspace.storage)
        for widths, seed in trainings:
            key = trials.training_key(widths, seed)
            if key not in known:
                known[key] = self._train(widths, seed)
        return [known[trials.training_key(*training)] for training in trainings]

    def _train(self, widths: tuple[int, ...], seed: int) -> float:
        folder = self.session.workspace.checkpoints(self.study_name)
        settings = self.tuning.task.settings.training_for(seed).updated(epochs=self.tuning.epochs)
        checkpoint = folder / f"training-{trials.training_key(widths, seed)}.pt"
        outcome = self.session.train(widths, settings, checkpoint, f"training, seed {seed}")
        return outcome.val_accuracy


def make_sampler(name: Sampler, seed: int) -> BaseSampler:
    """A sampler of the weights, which begins to model after what was enqueued and a few others."""
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=6)
    return TPESampler(seed=seed, multivariate=True, n_startup_trials=6)
