"""Run one trial: train a network of its widths, keep it if it is the best, store its numbers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from optuna.exceptions import TrialPruned
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from nsopt.compute.device import Compute
from nsopt.data.images import ImageData
from nsopt.deployment.artifacts import BestNetworks
from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import DeterministicError
from nsopt.latency.bisection import Widths
from nsopt.latency.record import Latency
from nsopt.scaling.metric import LATENCY, counted_costs
from nsopt.session.session import Session
from nsopt.session.timing import find_latencies
from nsopt.storage import trials
from nsopt.storage.engine import Job, Work
from nsopt.storage.trials import Point
from nsopt.training.outcome import Epoch, Outcome


@dataclass(frozen=True, eq=False)
class TrialRunner(Work):
    """Runs the trials of a study of trainings.

    The widths of a trial are those with which it was enqueued. Subclasses may propose them, and say
    how a network is trained.
    """

    session: Session

    @property
    def is_timed(self) -> bool:
        """Whether networks are timed."""
        return True

    @property
    def compute(self) -> Compute:
        return self.session.compute

    def point(self, trial: FrozenTrial) -> Point | None:
        return trials.read_point(trial)

    def train(self, point: Point, widths: tuple[int, ...]) -> Outcome:
        """Return the trained network of a point."""
        raise NotImplementedError

    def measure_extrapolation(self, point: Point) -> float | None:
        """Return the factor between a budget and the record of its law; None within the record."""
        return None

    def run(self, trial: Trial) -> tuple[float, float]:
        """Return score and latency. All results become attributes of the trial."""
        point = trials.read_point(trial)
        if point is None:
            raise TrialPruned("the trial has no method, metric, budget and seed")
        names = map(trials.width_parameter, self.session.subject.arch.layer_names)
        widths = tuple(trial.suggest_int(name, 1, trials.LARGEST_WIDTH) for name in names)
        timed = [(trial.study, widths)]
        latency = find_latencies(self.session, timed)[0] if self.is_timed else None
        outcome = self.train(point, widths)
        self._open_networks().keep_if_best(trial, self.make_kept(point, outcome).content)
        self._report(point, outcome, f"{outcome.seconds:.0f} s")
        columns = self._list_columns(point, outcome, latency)
        trials.write_outcome(trial, columns, _list_epochs(outcome))
        return outcome.score, math.inf if latency is None else latency.median_ms

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        point = trials.read_point(trial)
        self.session.progress.warning(f"{point.label if point else trial.number}: {error}")

    def retrain_damaged(self, study: Study) -> None:
        """Train the networks of a study again whose files here are damaged or deleted."""
        for trial in self._open_networks().damaged(study):
            point = trials.read_point(trial)
            assert point is not None
            self.session.progress.message(
                f"{point.label}: its file is damaged or deleted; training the network again"
            )
            widths = trials.read_widths(trial, self.session.subject.arch.layer_names)
            outcome = self.train(point, widths)
            if outcome.score == trial.values[0]:
                self._open_networks().repair(study, trial, self.make_kept(point, outcome))
            else:
                self._report(point, outcome, "other results than before: the file stays as it is")

    def make_kept(self, point: Point, outcome: Outcome) -> KeptNetwork:
        """Return the network of a point with everything needed to use it."""
        subject = self.session.subject
        data = subject.data
        images = (subject.splits, data.classes) if isinstance(data, ImageData) else ()
        return KeptNetwork.of(subject.arch.name, point, outcome, *images)

    def _report(self, point: Point, outcome: Outcome, how: str) -> None:
        about = self.session.subject.description
        test = "" if outcome.test_score is None else f", test {outcome.test_score:.2f}{about.unit}"
        name = about.score_name or "validation"
        self.session.progress.message(
            f"{point.label}: {name} {outcome.score:.2f}{about.unit}{test}, {how}"
        )

    def _open_networks(self) -> BestNetworks:
        return BestNetworks(self.session.workspace.artifacts)

    def _list_columns(
        self, point: Point, outcome: Outcome, latency: Latency | None
    ) -> dict[str, Any]:
        subject = self.session.subject
        arch = subject.arch
        costs = counted_costs(arch, outcome.widths)
        beyond = self.measure_extrapolation(point)
        if point.metric.is_timed and point.metric != LATENCY:
            costs["cost_latency"] = float(LATENCY.cost(arch)(outcome.widths))
        return costs | {
            "cost": point.metric.cost(arch)(outcome.widths),
            **({} if latency is None else _list_milliseconds(latency)),
            "tau": costs["params"],
            "score": outcome.score,
            "test_score": outcome.test_score,
            "test_score_best_epoch": outcome.test_score_best_epoch,
            "epochs": len(outcome.epochs),
            "seconds": outcome.seconds,
            "feasible": self._is_feasible(point, outcome.widths, latency),
            **({} if beyond is None else {"beyond_record": beyond}),
        }

    def _is_feasible(self, point: Point, widths: Widths, latency: Latency | None) -> bool:
        """Return whether a network is within its budget; its share of the milliseconds of the
        network of base widths is the measured one."""
        arch = self.session.subject.arch
        return all(
            (
                latency.ratio * metric.cost(arch)(arch.base_widths)
                if latency and metric == LATENCY
                else metric.cost(arch)(widths)
            )
            <= limit
            for metric, limit in point.metric.limits_at(point.budget)
        )


def _list_milliseconds(latency: Latency) -> dict[str, float | None]:
    return {
        "latency_ms": latency.median_ms,
        "latency_lower_quartile_ms": latency.lower_quartile_ms,
        "latency_upper_quartile_ms": latency.upper_quartile_ms,
        "latency_spread": latency.spread,
    }


def report_points(session: Session, jobs: Iterable[Job]) -> None:
    """Report how many points of these studies have ended, and how many there are."""
    finished = [
        trial
        for job in jobs
        for trial in job.stored
        if trials.read_point(trial) is not None and not trials.needs_retry(trial)
    ]
    session.progress.overall(sum(t.state.is_finished() for t in finished), len(finished))


def _list_epochs(outcome: Outcome) -> dict[str, Any]:
    """Return the numbers of every epoch; nothing for a network that was not trained."""
    if not outcome.epochs or any(map(math.isnan, outcome.losses)):
        return {}
    columns = {
        field.name: [getattr(epoch, field.name) for epoch in outcome.epochs]
        for field in fields(Epoch)
    }
    return {name: values for name, values in columns.items() if None not in values}
