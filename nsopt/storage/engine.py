"""Ask, run, tell: the trials of Optuna studies, shared by any number of processes.

`run_trials` enqueues the missing trials of a study and runs them; every process that makes the same
call takes part. It follows `Study.optimize`, and differs where Optuna 5 does not do what is needed:

- `Study.ask` starts an empty trial if another process took the last waiting one: `_ask` does not.
- A study has one sampler. Here each trial has its own, so that it does not matter who runs it.
- Heartbeats exist for databases only (optuna 6615), and stop at the first error: `heartbeat` is an
  attribute of the trial. The trial of a dead process waits again; it is not failed and copied.
- `Study.optimize` leaves when no trial waits: `drain` waits for the trials of other processes.

Calls to a storage are repeated while its server is away (`opening`), so that no result is lost.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import NamedTuple, Protocol, TypeVar

from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nsopt.compute.device import Compute
from nsopt.errors import DeterministicError, StorageError
from nsopt.progress import Progress
from nsopt.storage import internals, trials
from nsopt.storage.provenance import provenance

P = TypeVar("P", bound=Hashable)
HEARTBEAT_SECONDS = 3.0
DEAD_AFTER_LOOKS = 12  # without a new heartbeat; counted, as an outage stops all heartbeats
POLL_SECONDS = 1.0
_HEARTBEAT = "nsopt:heartbeat"


class Work(Protocol):
    """Runs the trials of a study."""

    @property
    def compute(self) -> Compute:
        """Device and precision."""

    def point(self, trial: FrozenTrial) -> Hashable:
        """Return what a trial runs. Of several trials with equal points, the first one runs."""

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler of a trial's parameters. This may take as long as the trial."""

    def run(self, trial: Trial) -> Sequence[float]:
        """Run a trial and return its values."""

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        """Report a trial that failed and would fail again."""


class Job(NamedTuple):
    """A study, and what runs its trials: None while they must wait."""

    study: Study
    work: Work | None


def run_trials(
    study: Study, points: Iterable[P], enqueue: Callable[[P], None], work: Work, progress: Progress
) -> None:
    """Run a trial for every point, unless the study has one; wait for those of other processes.

    Args:
        study: the study.
        points: what the trials run; `work.point` reads them.
        enqueue: enqueues the trial of a point, such as with `study.enqueue_trial({}, user_attrs)`.
        work: runs the trials, and any others that wait in the study.
        progress: receives the number of points that have ended.
    """
    wanted, waited = list(points), list[str]()

    def enqueue_missing() -> bool:
        missing = missing_points(study, wanted, work.point)
        for point in missing:
            enqueue(point)
        return bool(missing)

    def look() -> list[Job]:
        ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        settled = {work.point(trial) for trial in ended if trials.is_settled(trial)}
        progress.overall(len(settled & set(wanted)), len(wanted))
        return [Job(study, work)]

    def wait(running: bool) -> None:
        if running and not waited:
            waited.append("waiting for a trial of another process")
            progress.message(waited[0])

    run_missing(enqueue_missing, lambda: drain(look, wait))


def run_missing(enqueue_missing: Callable[[], bool], work: Callable[[], object]) -> None:
    """Enqueue and run trials until none is missing.

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


def drain(look: Callable[[], Sequence[Job]], wait: Callable[[bool], None]) -> int:
    """Run trials until all have ended, also in other processes; return how many ran here.

    Args:
        look: returns the studies to work on; called before every trial.
        wait: called when no trial can run now, to report what this process waits for. Its argument
            is whether other processes are running trials.
    """
    watch, done = Watch(), 0
    while True:
        jobs = look()
        if any(run_next(job.study, job.work) for job in jobs if job.work is not None):
            done += 1
            continue
        states = [state for job in jobs for state in watch.look(job.study)]
        if not states:
            return done
        wait(TrialState.RUNNING in states)
        time.sleep(POLL_SECONDS)


def run_next(study: Study, work: Work) -> bool:
    """Run the next waiting trial; return False if none is waiting.

    After an error that would happen again (a training that diverges, no widths at this budget) the
    trial fails and is not retried. Other errors fail the trial and are raised.
    """
    asked = _ask(study, work)
    if asked is None:
        return False
    with heartbeat(study, asked):
        try:
            study.sampler = work.sampler(asked)
            trial = internals.start(study, asked)
            trials.write_run(trial, provenance(work.compute))
            _tell(study, asked, work.run(trial))
        except UpdateFinishedTrialError:
            pass  # another process took over and was faster
        except TrialPruned:
            _tell(study, asked, state=TrialState.PRUNED)
        except DeterministicError as error:
            trials.write_failure(study, asked, error)
            work.handle_failure(asked, error)
            _tell(study, asked, state=TrialState.FAIL)
        except StorageError:  # it cannot be told; another process runs the trial
            raise
        except Exception:
            _tell(study, asked, state=TrialState.FAIL)
            raise
        except BaseException:  # interrupted
            internals.set_state(study, asked, TrialState.WAITING)
            raise
    return True


def _ask(study: Study, work: Work) -> FrozenTrial | None:
    """Take a waiting trial. If an earlier one has the same point, fail it and take the next."""
    stored = study.get_trials(deepcopy=False)
    for waiting in stored:
        if waiting.state != TrialState.WAITING:
            continue
        point, earlier = work.point(waiting), stored[: waiting.number]
        same = (
            trial for trial in earlier if trials.is_settled(trial) and work.point(trial) == point
        )
        with suppress(UpdateFinishedTrialError):
            if not internals.set_state(study, waiting, TrialState.RUNNING):
                continue
            original = next(same, None)
            if original is None:
                return waiting
            trials.write_duplicate(study, waiting, original)
            study.tell(waiting.number, state=TrialState.FAIL)
    return None


def _tell(
    study: Study,
    trial: FrozenTrial,
    values: Sequence[float] | None = None,
    state: TrialState | None = None,
) -> None:
    """Tell a result, unless the trial has one.

    If this process seemed dead, the trial may be waiting again: it is taken back.
    """
    with suppress(UpdateFinishedTrialError):
        internals.set_state(study, trial, TrialState.RUNNING)
        study.tell(trial.number, values, state, skip_if_finished=True)


@contextmanager
def heartbeat(study: Study, trial: FrozenTrial) -> Iterator[None]:
    """Write heartbeats while a trial runs, even if the storage fails now and then."""
    done = Event()

    def beat() -> None:
        while True:
            with suppress(Exception):  # the next one may succeed
                internals.write_system_attribute(study, trial, _HEARTBEAT, time.time())
            if done.wait(HEARTBEAT_SECONDS):
                return

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Watch:
    """Lets the trials of dead processes wait again."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[object, int]] = {}

    def look(self, study: Study) -> list[TrialState]:
        """Look for dead processes; return the states of the unfinished trials.

        A process is dead if this one saw no new heartbeat at several looks, so the clocks of
        machines are not compared.
        """
        states = TrialState.WAITING, TrialState.RUNNING
        found = study.get_trials(deepcopy=False, states=states)
        for trial in found:
            if trial.state == TrialState.RUNNING and self._is_dead(trial):
                with suppress(UpdateFinishedTrialError):
                    internals.set_state(study, trial, TrialState.WAITING)
        return [trial.state for trial in found]

    def _is_dead(self, trial: FrozenTrial) -> bool:
        number, sign = (
            internals.trial_id(trial),
            (
                trial.datetime_start,
                trial.system_attrs.get(_HEARTBEAT),
            ),
        )
        known, looks = self._seen.get(number, (None, 0))
        looks = looks + 1 if sign == known else 0
        self._seen[number] = sign, looks
        return looks >= DEAD_AFTER_LOOKS
