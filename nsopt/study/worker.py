"""A worker process of a comparison: it runs the trials that wait in the studies."""

from collections.abc import Callable, Iterable, Mapping

import torch
from optuna.study import Study

from nsopt.errors import NsoptError
from nsopt.methods.base import Method
from nsopt.methods.registry import get_method, is_method
from nsopt.progress import Progress
from nsopt.storage import schema, trials
from nsopt.storage.engine import Job, drain, run_missing
from nsopt.storage.studies import comparisons, load_studies
from nsopt.storage.urls import hide_password
from nsopt.study.cleanup import clear_finished
from nsopt.study.laws import Laws
from nsopt.study.session import Session, start_session
from nsopt.study.start import with_start
from nsopt.study.task import load_task
from nsopt.study.trial import TrialRunner
from nsopt.study.workspace import Workspace
from nsopt.tasks.imported import import_task


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
        return drain(self._look, self._wait)

    def run_missing(self, enqueue_missing: Callable[[], bool]) -> None:
        """Run trials until no point is missing. Train networks again whose files here are damaged.

        Args:
            enqueue_missing: enqueues the missing points; returns whether there were any.
        """
        run_missing(enqueue_missing, self.work)
        for method, study in self._find_installed(self._session.studies()):
            TrialRunner(self._session, self._laws, method).mend(study)

    def _look(self) -> list[Job]:
        """Return the studies, each with what runs its trials, or None until its law is ready."""
        studies = self._session.studies()
        session = self._session.with_latency_of(studies.values())
        if session is not self._session:
            self._session, self._laws = session, Laws(session)
        self._laws.read(studies)
        jobs = []
        for method, study in self._find_installed(studies):
            runner = TrialRunner(session, self._laws, method)
            jobs.append(Job(study, runner if self._laws.is_ready(method) else None))
        session.progress.overall(*_count_points(job.study for job in jobs))
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

    def _wait(self, running: bool) -> None:
        """Report what this process waits for."""
        self._report_once(
            "waiting for another process to finish its training"
            if running
            else "waiting for the search; if no process runs it, repeat the study's command"
        )

    def _report_once(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            self._session.progress.message(message)


def _count_points(studies: Iterable[Study]) -> tuple[int, int]:
    """Return the number of ended points of a comparison, and of all points."""
    settled = [
        trial
        for study in studies
        for trial in study.get_trials(deepcopy=False)
        if trials.read_point(trial) is not None and trials.is_settled(trial)
    ]
    return sum(trial.state.is_finished() for trial in settled), len(settled)


def join(
    name: str,
    workspace: Workspace,
    progress: Progress,
    *,
    data: str | None = None,
    arch_name: str | None = None,
    measure: str | None = None,
    task: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    child: bool = False,
) -> int:
    """Work on the comparison `name` of a storage until nothing is left.

    Args:
        data: where its images are on this machine; None for where the study was started.
        arch_name: the name of its architecture, if the user gave one.
        measure: the name of the function that measures its networks, if the user gave one.
        task: the name of the function that returns its task, if it is not of images.
        threads: number of CPU threads; None for torch's own.
        child: whether the study's command started this process, which then prints and cleans up
            itself.

    Returns:
        The number of trials that ran here.

    Raises:
        NsoptError: if there is nothing to join.
    """
    study = _choose_study(name, workspace)
    own = None if task is None else import_task(task)
    subject = load_task(study, data, workspace.data_dir, arch_name, measure, own)
    subject = with_start(subject, workspace)
    if subject.arch.summary() and not child:
        progress.message(subject.arch.summary())
    with start_session(subject, workspace, progress, device) as session:
        if threads is not None:
            torch.set_num_threads(threads)
        done = Worker(session, Laws(session)).work()
        if not child:
            clear_finished(session)
    return done


def _choose_study(name: str, workspace: Workspace) -> Study:
    """Return one of the comparison's studies, which all have the same settings."""
    if not workspace.has_storage:
        raise NsoptError(
            f"nothing is stored at {hide_password(workspace.url)}: start a study first"
        )
    studies = load_studies(workspace.storage, name)
    ready = [s for m, s in studies.items() if not schema.is_search(m) and schema.read_settings(s)]
    if not ready:
        known = ", ".join(comparisons(workspace.storage)) or "none"
        raise NsoptError(
            f"no study {name!r} to work on at {hide_password(workspace.url)}: stored are {known}"
        )
    return ready[0]
