"""Trials that wait in a storage, each run by one of any number of processes.

`Study.optimize` would start an empty trial where another process was quicker, and its heartbeat
ends with the first answer that a server owes; hence a claim and a heartbeat of our own.
"""

import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Protocol, TypeVar

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
from nsopt.storage.studies import has_unfinished

P = TypeVar("P", bound=Hashable)
_POLL_SECONDS = 1.0


class Work(Protocol):
    """What the trials of a study are run by. compute: where, and how."""

    @property
    def compute(self) -> Compute: ...

    def point(self, trial: FrozenTrial) -> Hashable:
        """What a trial was enqueued to run: of two trials with one point only one is run."""

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """What samples its parameters; it may take as long as the trial."""

    def run(self, trial: Trial) -> Sequence[float]:
        """Its values."""

    def failed(self, trial: FrozenTrial, error: DeterministicError) -> None:
        """Told when it failed as it would again."""


Entry = tuple[Study, Work | None]  # a study, and what runs its trials; None while they must wait


def drain(look: Callable[[], Sequence[Entry]], wait: Callable[[bool], None]) -> int:
    """Run trials until none waits or runs in any process; return how many ran here.

    Trials of processes that died wait again after a while, and run here, too.

    Args:
        look: returns the studies to work on; called anew before every trial.
        wait: called when there is nothing to run now, with whether other processes run trials;
            it says what is waited for.
    """
    watch, done = Watch(), 0
    while True:
        entries = look()
        if _run_one(entries):
            done += 1
            continue
        running = [watch.look(study) for study, _ in entries]
        if not any(has_unfinished(study) for study, _ in entries):
            return done
        wait(any(running))
        watch.wait()


def _run_one(entries: Sequence[Entry]) -> bool:
    for study, work in entries:
        claimed = None if work is None else claim(study, work)
        if work is not None and claimed is not None:
            run(study, claimed, work)
            return True
    return False


def run_missing(enqueue_missing: Callable[[], bool], work: Callable[[], object]) -> None:
    """Enqueue and run what is missing until nothing is: a process that dies gives back its trial.

    Args:
        enqueue_missing: returns whether anything was missing.
        work: runs what waits, whoever enqueued it.
    """
    enqueue_missing()
    work()
    while enqueue_missing():
        work()


def missing_points(
    study: Study | None, points: Iterable[P], read: Callable[[FrozenTrial], P | None]
) -> list[P]:
    """Return the points that need a trial: none is done, running or waiting, nor failed as it
    would again. read: reads the point of a trial."""
    stored = study.get_trials(deepcopy=False) if study else []
    settled = {read(trial) for trial in stored if trials.is_settled(trial)}
    return [point for point in points if point not in settled]


def claim(study: Study, work: Work) -> FrozenTrial | None:
    """A waiting trial that from now on is this process' to run; None if there is none.

    Two commands may have enqueued a point twice: then the earlier trial runs, the other one fails.
    """
    for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if not _take(study, waiting):
            continue
        original = _original(study, waiting, work)
        if original is None:
            return waiting
        trials.write_duplicate(study, waiting, original)
        study.tell(waiting.number, state=TrialState.FAIL)
    return None


def run(study: Study, claimed: FrozenTrial, work: Work) -> bool:
    """Run a claimed trial to its end; False if it was given to another process meanwhile.

    What would happen again (a training that diverges, no widths at this budget) fails the trial
    for good, one that a pruner ends is pruned; other errors fail it and are raised.
    """
    with heartbeat(internals.storage_of(study), internals.trial_id(claimed)):
        try:
            study.sampler = work.sampler(claimed)
            trial = internals.running(study, claimed)
            trials.write_worker(trial)
            trials.write_provenance(trial, provenance(work.compute))
            values = work.run(trial)
        except UpdateFinishedTrialError:
            return False
        except TrialPruned:
            return _tell(study, claimed, state=TrialState.PRUNED)
        except DeterministicError as error:
            trials.write_failure(study, claimed, error)
            work.failed(claimed, error)
            return _tell(study, claimed, state=TrialState.FAIL)
        except BaseException:
            _tell(study, claimed, state=TrialState.FAIL)
            raise
        return _tell(study, claimed, values)


def _take(study: Study, waiting: FrozenTrial) -> bool:
    """Mark a trial as running, unless another process just did."""
    try:
        return internals.take(study, waiting)
    except UpdateFinishedTrialError:
        return False


def _original(study: Study, claimed: FrozenTrial, work: Work) -> FrozenTrial | None:
    """The earlier trial with the same point. Numbers are given in the order of commits, so that
    whoever looks sees all trials before its own."""
    point = work.point(claimed)
    return next(
        (
            trial
            for trial in study.get_trials(deepcopy=False)[: claimed.number]
            if trials.is_settled(trial) and work.point(trial) == point
        ),
        None,
    )


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
    """Show that the process which runs a trial is alive, however often the storage fails."""
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
            except Exception:  # a lock or an outage: the next one may come through
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
    """Gives trials of dead processes back to the queue.

    A process may die between taking a trial and its first heartbeat, and a trial without one
    never counts as stale: the first look at a running trial gives it one. A storage that was
    locked keeps all from writing theirs: who seems dead is given the time of one more.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._silent: dict[int, dict[int, float]] = {}

    def wait(self) -> None:
        """For as long as it makes sense until the next look."""
        time.sleep(_POLL_SECONDS)

    def look(self, study: Study) -> bool:
        """Whether trials of `study` are running, or were until their process died."""
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
        """Fail the trials that stay stale for as long as a heartbeat takes."""
        now, own = time.monotonic(), internals.study_id(study)
        before = self._silent.get(own, {})
        silent = {number: before.get(number, now) for number in stale}
        self._silent[own] = silent
        if silent and now - max(silent.values()) > HEARTBEAT_SECONDS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                fail_stale_trials(study)
