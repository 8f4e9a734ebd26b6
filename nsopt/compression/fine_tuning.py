"""Train the networks of a compression from their fitted weights, with any number of processes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from optuna.study import Study
from optuna.trial import FrozenTrial

from nsopt.compression.fits import Fits
from nsopt.errors import NonFiniteLossError
from nsopt.latency.budget import Widths
from nsopt.latency.runtime import TORCH
from nsopt.session.runner import TrialRunner, find_latencies, report_points
from nsopt.session.session import run_other_workers
from nsopt.storage import trials
from nsopt.storage.engine import Job, drain, missing_points, run_missing
from nsopt.storage.schema import DENSE, RANKED, UNIFORM
from nsopt.storage.trials import Point, width_parameter
from nsopt.training.outcome import Interrupted, Outcome

KINDS = DENSE, UNIFORM, *RANKED


@dataclass(frozen=True, eq=False)
class FineTuning(TrialRunner):
    """Trains networks from their fitted weights; without epochs it only scores them.

    Attributes:
        stopped: the trainings that were interrupted, with their best weights.
    """

    fits: Fits
    stopped: dict[Point, Interrupted] = field(default_factory=dict)

    @property
    def is_timed(self) -> bool:
        """Whether networks are timed: not without training, unless milliseconds are limited or
        something else than PyTorch is to run them."""
        subject = self.session.subject
        is_default = subject.runtime.name == TORCH.name
        return bool(subject.settings.training.epochs or subject.arch.latency) or not is_default

    def train(self, point: Point, widths: Widths) -> Outcome:
        session = self.session
        if point.method == DENSE:
            return session.evaluate_start()
        settings = session.subject.settings.training_for(point.seed)
        if not settings.epochs:
            return self.score_fit(point, widths)
        file, fitted = session.find_checkpoint(point), self.fits.fit(point, widths)
        try:
            return session.train(widths, settings, file, point.label, lambda: fitted)
        except Interrupted as stop:
            self.stopped[point] = stop
            raise
        except NonFiniteLossError as error:
            if session.subject.trainer is not None:
                raise
            session.progress.warning(f"{point.label}: {error}; the fitted network stays")
            return self.score_fit(point, widths)

    def score_fit(self, point: Point, widths: Widths) -> Outcome:
        """Return the scores of a fitted network."""
        began = time.perf_counter()
        return self.session.evaluate(self.fits.fit(point, widths), widths, began)

    def run_waiting(self, wanted: Mapping[Point, Widths] | None = None) -> int:
        """Run waiting trials until none waits or runs; return how many ran here.

        Args:
            wanted: what to run; by default also what calls at other budgets left waiting.
        """

        def read(study: Study) -> list[FrozenTrial]:
            stored = study.get_trials(deepcopy=False)
            return [t for t in stored if wanted is None or trials.read_point(t) in wanted]

        def look() -> list[Job]:
            stored = self.session.studies()
            studies = [stored[kind] for kind in KINDS if kind in stored]
            jobs = [Job(study, self, read(study)) for study in studies]
            report_points(self.session, jobs)
            return jobs

        return drain(look, self.session.progress.message)


def fine_tune(runner: FineTuning, networks: Mapping[Point, Widths]) -> None:
    """Train every network that is not stored, and time it.

    The same call continues after an interruption.
    """
    session = runner.session
    studies = session.open_studies([point.method for point in networks])

    def enqueue_missing() -> bool:
        missing = [
            point
            for method, study in studies.items()
            for point in missing_points(
                study, [p for p in networks if p.method == method], trials.read_point
            )
        ]
        for point in missing:
            names = map(width_parameter, session.subject.arch.layer_names)
            parameters = dict(zip(names, networks[point], strict=True))
            trials.enqueue_point(studies[point.method], point, parameters)
        return bool(missing)

    different = dict.fromkeys((studies[point.method], widths) for point, widths in networks.items())
    if runner.is_timed:
        find_latencies(session, list(different))
    enqueue_missing()
    wanted = networks if session.workspace.workers == 1 else None  # workers run all that waits
    with run_other_workers(session):
        run_missing(enqueue_missing, partial(runner.run_waiting, wanted))
