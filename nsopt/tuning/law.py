"""Tune a scaling law: an Optuna study over the family of laws that searches span.

Short trainings at small budgets, with the same seeds for all, find the member that trains best.
Trainings with fresh seeds compare it with uniform scaling. If it is not better, the result is
uniform scaling.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.pruning.rules import get_size_metric
from nsopt.scaling.family import SLOPE, LawFamily, relative, relative_uniform
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import Metric, counted_costs
from nsopt.scaling.record import Iteration, PruneRecord
from nsopt.scaling.t_test import run_t_test
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.trials import TuningPoint
from nsopt.study.cleanup import clear_pretrained
from nsopt.study.comparison import Size
from nsopt.study.equal_training import find_equal_trainings
from nsopt.study.searching import continue_searches
from nsopt.study.session import Session, start_session
from nsopt.study.task import Task
from nsopt.study.widths_in_time import solve_in_time
from nsopt.study.workspace import Workspace
from nsopt.tuning.points import PointRunner, open_tuning, run_points

Sampler = Literal["gp", "tpe"]
RANGES = {SLOPE: (-1.5, 1.5)}
WEIGHTS = (-1.0, 1.5)
RECORDED = "recorded"
_STARTUP_TRIALS = 6
METRIC_NAME = "validation accuracy (%)"
_FRESH_SEED = 1000  # difference between the seeds of the confirmation and of the tuning
_LEVEL = 0.1
_UNIFORM = 0  # the index of the first trial


@dataclass(frozen=True, eq=False, kw_only=True)
class LawTuning:
    """Which law trains best at small budgets?

    Attributes:
        metric: the metric of the budgets.
        sizes: the budgets; every trial trains its widths at each of them.
        trials: number of laws to try.
        seeds: number of trainings per trial and budget, with seeds from that of the settings on.
        epochs: length of a training.
        confirmations: number of fresh seeds that compare the best law with uniform scaling.
        sampler: proposes laws, after uniform scaling and the laws of the searches.
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
    def tuned(self) -> dict[str, Any]:
        """The settings that decide its numbers, besides those of the task."""
        return {
            "metric": self.metric.name,
            "budgets": [size.budget for size in self.sizes],
            "seeds": self.seeds,
            "epochs": self.epochs,
        }


@dataclass(frozen=True)
class Confirmation:
    """The best law compared with uniform scaling, with fresh seeds.

    Attributes:
        parameters: of the law.
        differences: validation accuracy of the law minus that of uniform scaling, per seed.
        p: p-value of a one-sided paired t-test for a mean difference above 0.
    """

    parameters: dict[str, float]
    differences: tuple[float, ...]
    p: float

    @property
    def holds(self) -> bool:
        return self.p < _LEVEL

    def __str__(self) -> str:
        if not any(self.parameters.values()) and not self.differences:
            return "no trial was better than uniform"
        if not self.differences:
            return "no better than uniform: no training with a fresh seed succeeded"
        mean = float(np.mean(self.differences))
        verdict = "confirmed" if self.holds else "no better than uniform"
        p = f"p = {self.p:.2f}" if self.p >= 0.01 else "p < 0.01"
        return (
            f"{verdict}: {mean:+.2f} points over uniform with {len(self.differences)} fresh seeds "
            f"(one-sided paired t-test, {p})"
        )


def tune_law(
    tuning: LawTuning, workspace: Workspace, progress: Progress
) -> tuple[Study, Confirmation]:
    """Run the missing trials, confirm the best law and store it. The same call continues.

    Raises:
        NsoptError: if a search or every training fails, or if other settings wrote the storage.
    """
    training = tuning.task.settings.training
    with start_session(tuning.task, workspace, progress) as session:
        family = search_family(session, tuning.metric)
        study = open_tuning(session, tuning.study_name, tuning.tuned, [METRIC_NAME])
        runner = LawRunner(session, tuning, study, tuning.study_name, tuning.seeds, family)
        starts = dict(enumerate(list_starts(family)))
        points = {
            TuningPoint(training.seed, index=index): starts.get(index, {})
            for index in range(tuning.trials)
        }
        run_points(study, points, runner, progress)
        confirmation = _confirm(tuning, _find_best(study), runner)
        law = family.law(confirmation.parameters if confirmation.holds else {})
        schema.write_law(study, law)
        schema.write_verdict(study, str(confirmation))
        clear_pretrained(session)
    workspace.clear(tuning.study_name)
    workspace.clear(tuning.confirmation_name)
    return study, confirmation


def _confirm(tuning: LawTuning, best: FrozenTrial, runner: "LawRunner") -> Confirmation:
    """Train the best law and uniform scaling with fresh seeds, in a study of their own.

    The index of a law's first trial identifies it there: a law that is found later gets its own
    trainings. Uniform scaling has index 0.
    """
    if not any(best.params.values()):
        return Confirmation(best.params, (), 1.0)
    study = open_tuning(runner.session, tuning.confirmation_name, tuning.tuned, [METRIC_NAME])
    index = trials.read_tuning_point(best).index
    laws = {_UNIFORM: dict.fromkeys(best.params, 0.0), index: best.params}
    first = _FRESH_SEED + tuning.task.settings.training.seed
    seeds = range(first, first + tuning.confirmations)
    points = {
        TuningPoint(seed, index=law): parameters
        for seed in seeds
        for law, parameters in laws.items()
    }
    fresh = replace(runner, study_name=study.study_name, seeds=1)
    run_points(study, points, fresh, runner.session.progress)
    accuracy = {fresh.point(trial): trial.values[0] for trial in trials.read_completed(study)}
    pairs = [tuple(TuningPoint(seed, index=i) for i in (index, _UNIFORM)) for seed in seeds]
    differences = [
        accuracy[one] - accuracy[two] for one, two in pairs if {one, two} <= set(accuracy)
    ]
    p = _test_gain(differences) if len(differences) > 1 else 1.0
    return Confirmation(best.params, tuple(differences), p)


def _test_gain(differences: Sequence[float]) -> float:
    """Return the p-value of a one-sided t-test for a mean above 0; 1 if all differences are 0."""
    p = float(run_t_test(differences, "greater").pvalue)
    return 1.0 if math.isnan(p) else p


def _find_best(study: Study) -> FrozenTrial:
    done = list(filter(trials.is_of_tuning, trials.read_completed(study)))
    if not done:
        raise NsoptError(f"every trial of {study.study_name} failed: its trials give the reasons")
    return max(done, key=lambda trial: trial.values[0])


@dataclass(frozen=True, eq=False)
class LawRunner(PointRunner):
    """Runs the trials of a law's tuning, or of its confirmation.

    Attributes:
        study: of the tuning, which keeps the networks that were timed for budgets in milliseconds.
        study_name: of the study of these trials.
        seeds: number of trainings per trial and budget, from the seed of the trial on.
        family: of the laws to try.
    """

    tuning: LawTuning
    study: Study
    study_name: str
    seeds: int
    family: LawFamily

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Return a sampler whose proposals depend on the results so far and the trial's index."""
        return make_sampler(self.tuning.sampler, self.sampler_seed(trial))

    def run(self, trial: Trial) -> list[float]:
        """Return the mean validation accuracy over sizes and seeds."""
        parameters = suggest_parameters(trial, self.family)
        first = trials.read_seed(trial)
        networks = self._solve(self.family.law(parameters))
        trainings = [(w, seed) for w in networks for seed in range(first, first + self.seeds)]
        accuracies = self._train_missing(trial.study, trainings)
        accuracy = sum(accuracies) / len(accuracies)
        keys = [trials.training_key(*training) for training in trainings]
        trials.write_trainings(trial, dict(zip(keys, accuracies, strict=True)))
        numbers = counted_costs(self.tuning.task.arch, networks[-1])
        numbers |= {"widths": schema.width_key(networks[-1]), "val_accuracy": accuracy}
        trials.write_outcome(trial, numbers, {})
        text = ", ".join(f"{name} {value:.2f}" for name, value in parameters.items())
        self.session.progress.message(f"{text}: validation {accuracy:.2f} %")
        return [accuracy]

    def _solve(self, law: PowerLaw) -> list[tuple[int, ...]]:
        """Return the widths along a law at each size."""
        metric = self.tuning.metric
        return [
            solve_in_time(self.session, self.study, law, metric, size.budget)
            for size in self.tuning.sizes
        ]

    def _train_missing(
        self, study: Study, trainings: Sequence[tuple[tuple[int, ...], int]]
    ) -> list[float]:
        """Return the validation accuracies of trainings (widths, seed). Run those not stored."""
        known = find_equal_trainings(study, self.session.workspace.storage)
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


def search_family(session: Session, metric: Metric) -> LawFamily:
    """Run the missing searches for budgets in a metric, and return the family of their laws.

    Raises:
        NsoptError: if a search fails.
    """
    found = run_searches(session, metric)
    return make_family(session.task.arch, {price: own.law for price, own in found.items()})


def run_searches(session: Session, metric: Metric) -> dict[Price, Iteration]:
    """Run the missing searches for budgets in a metric; return the first iteration of each.

    One search ranks filters as published, the other by importance per cost (see `list_prices`).

    Raises:
        NsoptError: if a search fails.
    """
    prices = list_prices(metric)
    found = continue_searches(session, dict.fromkeys(prices, 1))
    return {price: found[price][0] for price in prices}


def list_prices(metric: Metric) -> tuple[Price, ...]:
    """Return the prices of the searches whose laws suit budgets in a metric.

    The bytes of weights follow the parameters. The peak of the activations has no price per filter:
    most filters do not change it. Computations are the nearest.
    """
    if metric.name in get_args(Price):
        return "filters", cast("Price", metric.name)
    return "filters", "params" if metric.name.startswith("flash") else "macs"


def make_family(arch: Architecture, laws: Mapping[Price, PowerLaw]) -> LawFamily:
    """Return the family of the laws of searches, around uniform scaling.

    Args:
        laws: by the price of their search, over tau.
    """
    others = {
        str(price): relative(law, get_size_metric(price).cost(arch), arch.base_widths)
        for price, law in laws.items()
    }
    return LawFamily(relative_uniform(arch.base_widths), others)


def with_recorded(
    family: LawFamily, arch: Architecture, record: PruneRecord, metric: Metric, budget: float
) -> LawFamily:
    """Return a family with one more member: the widths that pruning itself had at a budget.

    The family is the same if the record does not reach the budget.
    """
    cost = metric.cost(arch)
    widths = record.within(cost, budget)
    if widths is None:
        return family
    uniform = family.uniform
    scale = uniform.widths(float(cost(widths)) / float(cost(arch.base_widths)))
    recorded = replace(uniform, alpha=uniform.alpha * np.array(widths) / scale)
    return replace(family, others={**family.others, RECORDED: recorded})


def list_starts(family: LawFamily) -> list[dict[str, float]]:
    """Return the parameters of uniform scaling, then those of each other law alone."""
    uniform = dict.fromkeys(family.parameters, 0.0)
    return [uniform, *(uniform | {name: 1.0} for name in family.others)]


def suggest_parameters(trial: Trial, family: LawFamily) -> dict[str, float]:
    """Return the parameters of the member that a trial evaluates."""
    return {
        name: trial.suggest_float(name, *RANGES.get(name, WEIGHTS)) for name in family.parameters
    }


def make_sampler(name: Sampler, seed: int) -> BaseSampler:
    """Return a sampler of members. It samples the first few at random."""
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)
    return TPESampler(seed=seed, multivariate=True, n_startup_trials=_STARTUP_TRIALS)
