"""Run the waiting trials of a storage, each in exactly one of many processes.

nsopt claims trials and sends heartbeats itself. `Study.optimize` would start an empty trial if
another process was faster, and it stops sending heartbeats when a server fails once.
"""

import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import NamedTuple, Protocol, TypeVar

from optuna.exceptions import ExperimentalWarning, TrialPruned, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nsopt.compute.device import Compute
from nsopt.errors import DeterministicError
from nsopt.storage import internals, trials
from nsopt.storage.heartbeats import HEARTBEAT_SECONDS
from nsopt.storage.internals import BaseHeartbeat
from nsopt.storage.provenance import provenance
from nsopt.storage.studies import is_unfinished

P = TypeVar("P", bound=Hashable)
_POLL_SECONDS = 1.0


class Work(Protocol):
    """Runs the trials of a study."""

    @property
    def compute(self) -> Compute:
        """Device and precision."""

    def point(self, trial: FrozenTrial) -> Hashable:
        """Return the point of an enqueued trial. Of several trials with equal points, one runs."""

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler of a trial's parameters. This may take as long as the trial."""

    def run(self, trial: Trial) -> Sequence[float]:
        """Run a trial and return its values."""

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        """Handle a trial that failed and would fail again."""


class Entry(NamedTuple):
    """A study to work on.

    Attributes:
        study: the study.
        stored: its trials, read just now.
        work: runs its trials; None while they must wait.
    """

    study: Study
    stored: Sequence[FrozenTrial]
    work: Work | None


def drain(look: Callable[[], Sequence[Entry]], wait: Callable[[bool], None]) -> int:
    """Run trials until all have ended, also in other processes; return how many ran here.

    The trials of processes that died are queued again after a while.

    Args:
        look: returns the studies to work on; called before every trial.
        wait: called when no trial can run now, to report what this process waits for. Its argument
            is whether other processes are running trials.
    """
    watch, done = Watch(), 0
    while True:
        entries = look()
        if _run_one(entries):
            done += 1
            continue
        studies = [entry.study for entry in entries if is_unfinished(entry.stored)]
        running = [watch.look(study) for study in studies]
        if not any(is_unfinished(study.get_trials(deepcopy=False)) for study in studies):
            return done
        wait(any(running))
        watch.wait()


def _run_one(entries: Sequence[Entry]) -> bool:
    for study, stored, work in entries:
        claimed = None if work is None else claim(study, stored, work)
        if work is not None and claimed is not None:
            run(study, claimed, work)
            return True
    return False


def run_missing(enqueue_missing: Callable[[], bool], work: Callable[[], object]) -> None:
    """Enqueue and run trials until none is missing, also those of processes that died.

    Args:
        enqueue_missing: enqueues missing trials; returns whether any were missing.
        work: runs all waiting trials.
    """
    enqueue_missing()
    work()
    while enqueue_missing():
        work()


def missing_points(
    study: Study | None, points: Iterable[P], read: Callable[[FrozenTrial], Hashable]
) -> list[P]:
    """Return the points without a settled trial (`trials.is_settled`).

    Args:
        study: None if it does not exist yet.
        points: all points.
        read: reads the point of a trial.
    """
    stored = study.get_trials(deepcopy=False) if study else []
    settled = {read(trial) for trial in stored if trials.is_settled(trial)}
    return [point for point in points if point not in settled]


def claim(study: Study, stored: Sequence[FrozenTrial], work: Work) -> FrozenTrial | None:
    """Claim a waiting trial for this process; return None if no trial is waiting.

    If two commands enqueued the same point, the earlier trial runs and the later one fails.

    Args:
        study: the study.
        stored: its trials, read just now.
        work: runs its trials.
    """
    for waiting in stored:
        if waiting.state != TrialState.WAITING or not _take(study, waiting):
            continue
        original = _find_original(study, stored, waiting, work)
        if original is None:
            return waiting
        trials.write_duplicate(study, waiting, original)
        study.tell(waiting.number, state=TrialState.FAIL)
    return None


def run(study: Study, claimed: FrozenTrial, work: Work) -> bool:
    """Run a claimed trial to its end; return False if another process took it over meanwhile.

    After an error that would happen again (a training that diverges, no widths at this budget) the
    trial fails and is not retried. Other errors fail the trial and are raised.
    """
    with heartbeat(internals.storage_of(study), internals.trial_id(claimed)):
        try:
            return _run(study, claimed, work)
        except UpdateFinishedTrialError:
            return False


def _run(study: Study, claimed: FrozenTrial, work: Work) -> bool:
    try:
        study.sampler = work.sampler(claimed)
        trial = internals.running(study, claimed)
        trials.write_run(trial, provenance(work.compute))
        values = work.run(trial)
    except UpdateFinishedTrialError:
        raise
    except TrialPruned:
        return _tell(study, claimed, state=TrialState.PRUNED)
    except DeterministicError as error:
        trials.write_failure(study, claimed, error)
        work.handle_failure(claimed, error)
        return _tell(study, claimed, state=TrialState.FAIL)
    except BaseException:
        _tell(study, claimed, state=TrialState.FAIL)
        raise
    return _tell(study, claimed, values)


def _take(study: Study, waiting: FrozenTrial) -> bool:
    """Set a trial to running; return False if another process was faster."""
    try:
        return internals.take(study, waiting)
    except UpdateFinishedTrialError:
        return False


def _find_original(
    study: Study, stored: Sequence[FrozenTrial], claimed: FrozenTrial, work: Work
) -> FrozenTrial | None:
    """Return an earlier trial with the same point that needs no retry, or None.

    Trials are numbered in the order of their commits, so `stored` has all earlier ones; their
    states may have changed since.
    """
    point = work.point(claimed)
    same = [trial.number for trial in stored[: claimed.number] if work.point(trial) == point]
    now = study.get_trials(deepcopy=False) if same else []
    return next((now[number] for number in same if trials.is_settled(now[number])), None)


def _tell(
    study: Study,
    trial: FrozenTrial,
    values: Sequence[float] | None = None,
    state: TrialState | None = None,
) -> bool:
    try:
        study.tell(trial.number, values, state)
    except (UpdateFinishedTrialError, ValueError):
        if internals.is_finished(study, trial):
            return False
        raise
    return True


@contextmanager
def heartbeat(storage: BaseStorage, trial_id: int) -> Iterator[None]:
    """Send heartbeats while a trial runs, even if the storage fails now and then."""
    if not isinstance(storage, BaseHeartbeat):
        yield
        return
    done = Event()

    def beat() -> None:
        while not done.is_set():
            try:
                storage.record_heartbeat(trial_id)
            except UpdateFinishedTrialError:
                return
            except Exception:  # a lock or an outage: the next heartbeat may succeed
                pass
            done.wait(HEARTBEAT_SECONDS)

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Watch:
    """Returns the trials of dead processes to the queue.

    A process may die between taking a trial and its first heartbeat. For Optuna a trial without a
    heartbeat is never stale, so the first look at a running trial writes one. A locked storage
    blocks all heartbeats, so a process that seems dead gets time for one more.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._silent: dict[int, dict[int, float]] = {}

    def wait(self) -> None:
        """Sleep until the next look."""
        time.sleep(_POLL_SECONDS)

    def look(self, study: Study) -> bool:
        """Queue stale trials again; return whether trials of `study` were running."""
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        storage = internals.storage_of(study)
        if running and isinstance(storage, BaseHeartbeat):
            for number in map(internals.trial_id, running):
                if number not in self._seen:
                    storage.record_heartbeat(number)
                    self._seen.add(number)
            self._fail_stale(study, internals.stale_trial_ids(storage, study))
        return bool(running)

    def _fail_stale(self, study: Study, stale: Sequence[int]) -> None:
        """Fail the trials that stay stale for another heartbeat."""
        now, own = time.monotonic(), internals.study_id(study)
        before = self._silent.get(own, {})
        silent = {number: before.get(number, now) for number in stale}
        self._silent[own] = silent
        if silent and now - max(silent.values()) > HEARTBEAT_SECONDS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                fail_stale_trials(study)
