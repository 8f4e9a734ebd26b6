"""One of the processes that work on a comparison: it runs what waits in its studies."""

from collections.abc import Iterable, Mapping

import torch
from optuna.study import Study

from nsopt.compute.device import resolve_compute
from nsopt.errors import NsoptError
from nsopt.methods.base import Method
from nsopt.methods.registry import get_method, is_method
from nsopt.progress import Progress
from nsopt.storage import schema, trials
from nsopt.storage.queue import Entry, drain
from nsopt.storage.studies import comparisons, load_studies
from nsopt.storage.urls import hide_password
from nsopt.study.laws import Laws
from nsopt.study.session import Session, start_session
from nsopt.study.start import with_start
from nsopt.study.task import load_task
from nsopt.study.trial import TrialRunner
from nsopt.study.unfinished import clear_finished
from nsopt.study.workspace import Workspace


class Worker:
    """Works on the comparison of a session, beside any number of others."""

    def __init__(self, session: Session, laws: Laws) -> None:
        self._session = session
        self._laws = laws
        self._told: set[str] = set()

    def work(self) -> int:
        """Run trials until none of the comparison waits or runs; return how many ran here.

        Methods that follow a search wait for it, trials of dead processes for their turn.
        """
        return drain(self._look, self._wait)

    def _look(self) -> list[Entry]:
        """The studies of the comparison, each with what runs its trials if its law is ready."""
        studies = self._session.studies()
        session = self._session.with_latency_of(studies.values())
        if session is not self._session:
            self._session, self._laws = session, Laws(session)
        self._laws.read(studies)
        known = self._known(studies)
        session.progress.overall(*_counted(study for _, study in known))
        runner = TrialRunner(session, self._laws)
        return [(study, runner if self._laws.is_ready(m) else None) for m, study in known]

    def _known(self, studies: Mapping[str, Study]) -> list[tuple[Method, Study]]:
        """The studies whose method is installed here; the others are left to others."""
        names = [kind for kind in studies if not schema.is_search(kind)]
        unknown = [name for name in names if not is_method(name)]
        if unknown:
            self._tell_once(f"not installed here, left to others: {', '.join(unknown)}")
        return [(get_method(name), studies[name]) for name in names if is_method(name)]

    def _wait(self, running: bool) -> None:
        """Say what is waited for."""
        self._tell_once(
            "waiting for the training of another process to end"
            if running
            else "waiting for the search; if nobody runs it, repeat the study's command"
        )

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._session.progress.message(message)


def _counted(studies: Iterable[Study]) -> tuple[int, int]:
    """How many points of a comparison have ended, and how many there are."""
    stored = [
        trial
        for study in studies
        for trial in study.get_trials(deepcopy=False)
        if trials.read_point(trial) is not None and trials.is_settled(trial)
    ]
    return sum(trial.state.is_finished() for trial in stored), len(stored)


def join(
    name: str,
    workspace: Workspace,
    data: str | None,
    given: str | None,
    device: str,
    threads: int | None,
    child: bool,
    progress: Progress,
) -> int:
    """Work on the comparison `name` of a storage until nothing is left.

    Args:
        data: where its images are here, if elsewhere than where it was started.
        given: the name of its architecture, if the user gave one.
        child: whether the study's command started this process, and itself prints and tidies up.

    Returns:
        How many trials ran here.

    Raises:
        NsoptError: if there is nothing to join.
    """
    task = load_task(_any_study(name, workspace), data, workspace.data_dir, given)
    task = with_start(task, workspace)
    if task.arch.summary() and not child:
        progress.message(task.arch.summary())
    compute = resolve_compute(device, task.settings.training.precision)
    with start_session(task, workspace, compute, progress) as session:
        if threads is not None:
            torch.set_num_threads(threads)
        done = Worker(session, Laws(session)).work()
        if not child:
            clear_finished(session)
    return done


def _any_study(name: str, workspace: Workspace) -> Study:
    """One of the comparison's, all of which have the same settings."""
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
