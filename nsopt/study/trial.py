"""Run one trial of a comparison: propose widths, train the network, store the results."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from optuna.exceptions import TrialPruned
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from torch import nn

from nsopt.compute.device import Compute
from nsopt.data.images import ImageData
from nsopt.deployment.artifacts import BestNetworks
from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import DeterministicError
from nsopt.latency.sittings import Latency
from nsopt.methods.base import Method
from nsopt.samplers.neuralscale import suggest_widths
from nsopt.scaling.metric import LATENCY, counted_costs
from nsopt.storage import trials
from nsopt.storage.trials import Point
from nsopt.study.laws import Laws
from nsopt.study.session import Session
from nsopt.study.timing import find_latencies
from nsopt.study.trained import train_base_network
from nsopt.training.outcome import Epoch, Outcome


@dataclass(frozen=True, eq=False)
class TrialRunner:
    """Runs the trials of a method; the `Work` of their queue."""

    session: Session
    laws: Laws
    method: Method

    @property
    def compute(self) -> Compute:
        return self.session.compute

    def point(self, trial: FrozenTrial) -> Point | None:
        return trials.read_point(trial)

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler that proposes the widths of a trial."""
        point = trials.read_point(trial)
        return RandomSampler() if point is None else self.laws.find_sampler(self.method, point)

    def run(self, trial: Trial) -> tuple[float, float]:
        """Return validation accuracy and latency. All results become attributes of the trial."""
        point = trials.read_point(trial)
        if point is None:
            raise TrialPruned("the trial has no method, metric, budget and seed")
        arch = self.session.task.arch
        widths = suggest_widths(trial, arch, 1, trials.LARGEST_WIDTH, log=False)
        (latency,) = find_latencies(self.session, [(trial.study, widths)])
        outcome = self._train(point, widths)
        self._open_networks().keep_if_best(trial, self._make_kept(point, outcome).content)
        self._report(point, outcome, f"{outcome.seconds:.0f} s")
        columns = self._list_columns(point, outcome, latency)
        trials.write_outcome(trial, columns, _list_epochs(outcome))
        return outcome.score, latency.median_ms

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        """Report why a trial failed."""
        point = trials.read_point(trial)
        self.session.progress.message(f"{point.label if point else trial.number}: {error}")

    def mend(self, study: Study) -> None:
        """Train the networks of a study again whose files here are damaged."""
        for trial in self._open_networks().damaged(study):
            point = trials.read_point(trial)
            assert point is not None
            self.session.progress.message(
                f"{point.label}: its file is damaged; training the network again"
            )
            widths = trials.read_widths(trial, self.session.task.arch.layer_names)
            outcome = self._train(point, widths)
            if outcome.score == trial.values[0]:
                self._open_networks().mend(study, trial, self._make_kept(point, outcome))
            else:
                self._report(point, outcome, "other results than before: the file stays damaged")

    def _make_kept(self, point: Point, outcome: Outcome) -> KeptNetwork:
        task = self.session.task
        if isinstance(task.data, ImageData):
            return KeptNetwork.of(task.arch.name, point, outcome, task.splits, task.data.classes)
        return KeptNetwork.of(task.arch.name, point, outcome)

    def _train(self, point: Point, widths: tuple[int, ...]) -> Outcome:
        """Train from scratch, or fine-tune inherited weights."""
        method, task = self.method, self.session.task
        if method.keeps_weights:
            return self.session.evaluate_start()
        checkpoint = _find_checkpoint(self.session, point)
        if not method.inherits_weights:
            training = task.settings.training_for(point.seed)
            return self.session.train(widths, training, checkpoint, point.label)
        trained = train_base_network(self.session, point.seed)

        def start() -> nn.Module:
            return method.start(task.arch, widths, trained)

        fine_tuning = task.settings.fine_tuning_for(point.seed)
        return self.session.train(widths, fine_tuning, checkpoint, point.label, start)

    def _report(self, point: Point, outcome: Outcome, how: str) -> None:
        task = self.session.task.description
        test = "" if outcome.test_score is None else f", test {outcome.test_score:.2f}{task.unit}"
        name = task.score_name or "validation"
        self.session.progress.message(
            f"{point.label}: {name} {outcome.score:.2f}{task.unit}{test}, {how}"
        )

    def _open_networks(self) -> BestNetworks:
        return BestNetworks(self.session.workspace.artifacts)

    def _list_columns(self, point: Point, outcome: Outcome, latency: Latency) -> dict[str, Any]:
        """Return the columns of a trial."""
        arch = self.session.task.arch
        costs = counted_costs(arch, outcome.widths)
        budgeted = point.metric.cost(arch)(outcome.widths)
        beyond = self.laws.measure_extrapolation(self.method, point)
        return costs | {
            "cost": budgeted,
            "latency_ms": latency.median_ms,
            "latency_lower_quartile_ms": latency.lower_quartile_ms,
            "latency_upper_quartile_ms": latency.upper_quartile_ms,
            "latency_spread": latency.spread,
            "latency_waited": latency.waited,
            "tau": costs["params"],
            "score": outcome.score,
            "test_score": outcome.test_score,
            "test_score_best_epoch": outcome.test_score_best_epoch,
            "epochs": len(outcome.epochs),
            "seconds": outcome.seconds,
            "feasible": self._is_feasible(point, outcome.widths, latency),
            **({} if beyond is None else {"beyond_record": beyond}),
        }

    def _is_feasible(self, point: Point, widths: tuple[int, ...], latency: Latency) -> bool:
        """Return whether a network is within its budget; milliseconds are the measured ones."""
        arch = self.session.task.arch
        return all(
            (latency.median_ms if metric == LATENCY else metric.cost(arch)(widths)) <= limit
            for metric, limit in point.metric.limits_at(point.budget)
        )


def _list_epochs(outcome: Outcome) -> dict[str, Any]:
    """Return the numbers of every epoch; nothing for a network that was not trained."""
    if any(map(math.isnan, outcome.losses)):
        return {}
    columns = {
        field.name: [getattr(epoch, field.name) for epoch in outcome.epochs]
        for field in fields(Epoch)
    }
    return {name: values for name, values in columns.items() if None not in values}


def _find_checkpoint(session: Session, point: Point) -> Path:
    folder = session.workspace.checkpoints(session.task.study_name(point.method))
    return folder / f"{point.metric.name}-{point.budget}-seed{point.seed}.pt"
