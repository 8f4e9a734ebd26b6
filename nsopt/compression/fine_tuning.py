"""Fine-tune the networks of a compression, together with any number of other processes."""

import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import partial

from optuna.study import Study
from optuna.trial import FrozenTrial

from nsopt.compression.fits import Fits
from nsopt.session.other_workers import run_other_workers
from nsopt.session.runner import TrialRunner, report_points
from nsopt.session.session import Session
from nsopt.session.timing import find_latencies
from nsopt.storage import trials
from nsopt.storage.engine import Job, drain, missing_points, run_missing
from nsopt.storage.schema import DENSE, SCORED, UNIFORM
from nsopt.storage.trials import Point, width_parameter
from nsopt.training.outcome import Outcome

Widths = tuple[int, ...]
KINDS = DENSE, UNIFORM, SCORED


@dataclass(frozen=True, eq=False)
class _FineTuning(TrialRunner):
    """Fine-tunes networks that inherit from the trained one, which is only scored itself.

    Where fits begin, networks are fitted to the trained one first; without epochs that is all.
    """

    fits: Fits

    def train(self, point: Point, widths: Widths) -> Outcome:
        session = self.session
        if point.method == DENSE:
            return session.evaluate_start()
        settings = session.subject.settings.training_for(point.seed)
        file = session.find_checkpoint(point)
        if not self.fits.begin:
            return session.train(widths, settings, file, point.label)
        began, fitted = time.perf_counter(), self.fits.fit(point, widths)
        if not settings.epochs:
            return session.evaluate(fitted, widths, began)
        settings = self.fits.soften(settings)
        return session.train(widths, settings, file, point.label, lambda: fitted)


def fine_tune(session: Session, networks: Mapping[Point, Widths], fits: Fits) -> None:
    """Fine-tune every network that is not stored, and time it.

    The same call continues after an interruption. Networks whose files here are damaged or deleted
    are trained again.
    """
    studies = session.open_studies(KINDS)  # all of them: they mark a compression

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
    find_latencies(session, list(different))
    enqueue_missing()
    wanted = networks if session.workspace.workers == 1 else None  # workers run all that waits
    with run_other_workers(session):
        run_missing(enqueue_missing, partial(run_fine_tunings, session, fits, wanted))
    for study in studies.values():
        _FineTuning(session, fits).mend(study)


def run_fine_tunings(
    session: Session, fits: Fits, wanted: Container[Point | None] | None = None
) -> int:
    """Run waiting trials until none waits or runs; return how many ran here.

    Args:
        wanted: what to run; by default also what calls at other budgets left waiting.
    """
    runner = _FineTuning(session, fits)

    def read(study: Study) -> list[FrozenTrial]:
        stored = study.get_trials(deepcopy=False)
        return [t for t in stored if wanted is None or trials.read_point(t) in wanted]

    def look() -> list[Job]:
        stored = session.studies()
        studies = [stored[kind] for kind in KINDS if kind in stored]
        jobs = [Job(study, runner, read(study)) for study in studies]
        report_points(session, jobs)
        return jobs

    return drain(look, session.progress.message)
