"""A worker process of a comparison: it runs the trials that wait in the studies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nsopt.methods.base import Method
from nsopt.methods.registry import get_method, is_method
from nsopt.session.runner import TrialRunner, report_points
from nsopt.session.session import Session
from nsopt.storage import schema, trials
from nsopt.storage.engine import Job, drain, run_missing
from nsopt.storage.trials import Point
from nsopt.study.laws import Laws, train_base_network
from nsopt.training.outcome import Outcome


@dataclass(frozen=True, eq=False)
class MethodRunner(TrialRunner):
    """Runs the trials of a method: it proposes the widths and says what a training starts from."""

    laws: Laws
    method: Method

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        point = trials.read_point(trial)
        return RandomSampler() if point is None else self.laws.find_sampler(self.method, point)

    def measure_extrapolation(self, point: Point) -> float | None:
        return self.laws.measure_extrapolation(self.method, point)

    def train(self, point: Point, widths: tuple[int, ...]) -> Outcome:
        """Train from scratch, or fine-tune inherited weights."""
        method, subject = self.method, self.session.subject
        if method.keeps_weights:
            return self.session.evaluate_start()
        checkpoint = self.session.find_checkpoint(point)
        if not method.inherits_weights:
            training = subject.settings.training_for(point.seed)
            return self.session.train(widths, training, checkpoint, point.label)
        trained = train_base_network(self.session, point.seed)
        start = partial(method.start, subject.arch, widths, trained)
        fine_tuning = subject.settings.fine_tuning_for(point.seed)
        return self.session.train(widths, fine_tuning, checkpoint, point.label, start)


class Worker:
    """Works on the comparison of a session, together with any number of other workers."""

    def __init__(self, session: Session, laws: Laws) -> None:
        self._session = session
        self._laws = laws
        self._reported: set[str] = set()

    def work(self) -> int:
        """Run trials until none of the comparison waits or runs; return how many ran here.

        Trials wait if their method needs a search that is not finished. Trials of dead processes
        run later.
        """
        idle = "waiting for the search; if no process runs it, repeat the study's command"
        return drain(self._look, self._report_once, idle)

    def run_missing(self, enqueue_missing: Callable[[], bool]) -> None:
        """Run trials until no point is missing; train networks again whose files are damaged."""
        run_missing(enqueue_missing, self.work)
        for method, study in self._find_installed(self._session.studies()):
            MethodRunner(self._session, self._laws, method).retrain_damaged(study)

    def _look(self) -> list[Job]:
        """Return the studies, each with what runs its trials, or None until its law is ready."""
        studies = self._session.studies()
        session = self._session.with_latency_of(studies.values())
        if session is not self._session:
            self._session, self._laws = session, Laws(session)
        self._laws.read(studies)
        jobs = []
        for method, study in self._find_installed(studies):
            runner = MethodRunner(session, self._laws, method)
            stored = study.get_trials(deepcopy=False)
            jobs.append(Job(study, runner if self._laws.is_ready(method) else None, stored))
        report_points(session, jobs)
        return jobs

    def _find_installed(self, studies: Mapping[str, Study]) -> list[tuple[Method, Study]]:
        """Return the studies whose method is installed here. Other workers run the others."""
        names = [kind for kind in studies if not schema.is_search(kind)]
        unknown = [name for name in names if not is_method(name)]
        if unknown:
            self._report_once(
                f"methods not installed here, left to other workers: {', '.join(unknown)}"
            )
        return [(get_method(name), studies[name]) for name in names if is_method(name)]

    def _report_once(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            self._session.progress.message(message)
