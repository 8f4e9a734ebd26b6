"""Ask, run, tell: the trials of Optuna studies, shared by any number of processes.

`run_trials` enqueues the missing trials of a study and runs them; every process that makes the same
call takes part. It follows `Study.optimize`, and differs where Optuna 5 does not do what is needed:

- `Study.ask` starts an empty trial if another process took the last waiting one: `_take` does not.
- A study has one sampler. Here each trial has its own, so that it does not matter who runs it.
- Heartbeats exist for databases only (optuna 6615), and stop at the first error: `heartbeat` is an
  attribute of the trial. The trial of a dead process waits again; it is not failed and copied.
- `Study.optimize` leaves when no trial waits: `drain` waits for the trials of other processes.

Calls to a storage are repeated while its server is away (`opening`), so that no result is lost.
"""

import platform
import subprocess
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import filterfalse
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nsopt.compute.device import Compute, describe_device
from nsopt.errors import DeterministicError, StorageError
from nsopt.progress import Progress, repeated
from nsopt.storage import internals, trials

P = TypeVar("P", bound=Hashable)
HEARTBEAT_SECONDS = 3.0
DEAD_AFTER_LOOKS = 12  # without a new heartbeat; counted, as an outage stops all heartbeats
POLL_SECONDS = 1.0
_HEARTBEAT = "nsopt:heartbeat"
_PACKAGES = ("nsopt", "torch", "torchvision", "optuna", "scikit-learn", "numpy")
_RUNNING = "waiting for another process to finish its trial, a few seconds if it was stopped"


class Work(Protocol):
    """Runs the trials of a study."""

    @property
    def compute(self) -> Compute:
        """Device and precision."""

    def point(self, trial: FrozenTrial) -> Hashable:
        """Return what a trial runs. Of several trials with equal points, the first one runs."""

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler of a trial's parameters. This may take as long as the trial."""
        return RandomSampler()

    def run(self, trial: Trial) -> Sequence[float]:
        """Run a trial and return its values; store all else as attributes of the trial."""

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        """Report a trial that failed and would fail again."""


class Job(NamedTuple):
    """A study, what runs its trials (None while they must wait), and the trials as just read."""

    study: Study
    work: Work | None
    stored: Sequence[FrozenTrial]


def run_trials(
    study: Study, points: Iterable[P], enqueue: Callable[[P], None], work: Work, progress: Progress
) -> None:
    """Run a trial for every point, unless the study has one; wait for those of other processes.

    A point is whatever identifies a trial, such as the widths and the seed of a training: `enqueue`
    stores it, and `work.point` reads it in any process. tests/storage/test_engine.py has an example
    of ten lines.

    Args:
        enqueue: enqueues the trial of a point, such as with `study.enqueue_trial({}, user_attrs)`.
        work: runs the trials, and any others that wait in the study.
        progress: receives the number of points that have ended.
    """
    wanted = list(points)

    def enqueue_missing() -> bool:
        missing = missing_points(study, wanted, work.point)
        for point in missing:
            enqueue(point)
        return bool(missing)

    def look() -> list[Job]:
        stored = study.get_trials(deepcopy=False)
        finished = (trial for trial in stored if trial.state.is_finished())
        ended = {work.point(trial) for trial in finished if not trials.needs_retry(trial)}
        progress.overall(len(ended & set(wanted)), len(wanted))
        return [Job(study, work, stored)]

    run_missing(enqueue_missing, lambda: drain(look, progress.message))


def run_missing(enqueue_missing: Callable[[], bool], work: Callable[[], object]) -> None:
    """Enqueue and run trials until none is missing."""
    enqueue_missing()
    work()
    while enqueue_missing():
        work()


def missing_points(
    study: Study | None, points: Iterable[P], read: Callable[[FrozenTrial], Hashable]
) -> list[P]:
    """Return the points without a trial, or whose trial needs a retry.

    Args:
        study: None if it does not exist yet.
    """
    stored = study.get_trials(deepcopy=False) if study else []
    known = {read(trial) for trial in stored if not trials.needs_retry(trial)}
    return [point for point in points if point not in known]


def drain(look: Callable[[], Sequence[Job]], report: Callable[[str], None], idle: str = "") -> int:
    """Run trials until all have ended, also in other processes; return how many ran here.

    Args:
        look: returns the studies to work on, with those trials; called before every trial.
        report: receives, once, that other processes run trials, and `idle` while none does and
            trials must wait.
    """
    watch, done, reported = HeartbeatWatch(), 0, {""}
    while True:
        jobs = look()
        if any(run_next(study, work, stored) for study, work, stored in jobs if work is not None):
            done += 1
            continue
        states = [state for job in jobs for state in watch.look(job.study, job.stored)]
        if not states:
            return done
        reason = _RUNNING if TrialState.RUNNING in states else idle
        if reason not in reported:
            reported.add(reason)
            report(reason)
        time.sleep(POLL_SECONDS)


def run_next(study: Study, work: Work, stored: Sequence[FrozenTrial] | None = None) -> bool:
    """Run the next waiting trial; return False if none is waiting.

    After an error that would happen again (a training that diverges, no widths at this budget) the
    trial fails and is not retried. Other errors fail the trial and are raised.

    Args:
        stored: the trials of the study, if they were just read.
    """
    taken = _take(study, work, study.get_trials(deepcopy=False) if stored is None else stored)
    if taken is None:
        return False
    with heartbeat(study, taken):
        try:
            study.sampler = work.sampler(taken)
            trial = internals.start(study, taken)
            trials.write_run(trial, provenance(work.compute))
            _tell(study, taken, work.run(trial))
        except UpdateFinishedTrialError:
            pass  # another process took over and was faster
        except TrialPruned:
            _tell(study, taken, state=TrialState.PRUNED)
        except DeterministicError as error:
            trials.write_failure(study, taken, error)
            work.handle_failure(taken, error)
            _tell(study, taken, state=TrialState.FAIL)
        except StorageError:  # it cannot be told; another process runs the trial
            raise
        except Exception:
            _tell(study, taken, state=TrialState.FAIL)
            raise
        except BaseException:  # interrupted
            internals.set_state(study, taken, TrialState.WAITING)
            raise
    return True


def _take(study: Study, work: Work, stored: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Take a waiting trial. If an earlier one has the same point, fail it and take the next."""
    first = dict[Hashable, FrozenTrial]()
    for trial in filterfalse(trials.needs_retry, stored):
        original = first.setdefault(work.point(trial), trial)
        if trial.state != TrialState.WAITING:
            continue
        with suppress(UpdateFinishedTrialError):
            if internals.set_state(study, trial, TrialState.RUNNING):
                if original is trial:
                    return trial
                trials.write_duplicate(study, trial, original)
                study.tell(trial.number, state=TrialState.FAIL)
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
        try:
            study.tell(trial.number, values, state, skip_if_finished=True)
        except ValueError:  # it waits, or its values are invalid
            internals.set_state(study, trial, TrialState.RUNNING)
            study.tell(trial.number, values, state, skip_if_finished=True)


def heartbeat(study: Study, trial: FrozenTrial) -> AbstractContextManager[None]:
    """Write heartbeats while a trial runs, even if the storage fails now and then."""

    def beat() -> None:
        with suppress(Exception):  # the next one may succeed
            internals.write_system_attribute(study, trial, _HEARTBEAT, time.time())

    return repeated(beat, HEARTBEAT_SECONDS)


class HeartbeatWatch:
    """Lets the trials of dead processes wait again."""

    def __init__(self) -> None:
        self._seen = dict[int, tuple[object, int]]()

    def look(self, study: Study, stored: Iterable[FrozenTrial]) -> list[TrialState]:
        """Look for dead processes; return the states of the unfinished ones of `stored` trials.

        A process is dead if this one saw no new heartbeat at several looks, so the clocks of
        machines are not compared.
        """
        pending = [trial for trial in stored if not trial.state.is_finished()]
        for trial in pending:
            if trial.state == TrialState.RUNNING and self._is_dead(trial):
                with suppress(UpdateFinishedTrialError):
                    internals.set_state(study, trial, TrialState.WAITING)
        return [trial.state for trial in pending]

    def _is_dead(self, trial: FrozenTrial) -> bool:
        number = internals.trial_id(trial)
        sign = trial.datetime_start, trial.system_attrs.get(_HEARTBEAT)
        known, looks = self._seen.get(number, (None, 0))
        looks = looks + 1 if sign == known else 0
        self._seen[number] = sign, looks
        return looks >= DEAD_AFTER_LOOKS


def provenance(compute: Compute) -> dict[str, str]:
    """Return the device, precision, commit, system and package versions of this process."""
    return {
        "device": describe_device(compute.device),
        "training precision": compute.precision,
        "commit": _find_commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{package: _find_version(package) for package in _PACKAGES},
    }


@cache
def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@cache
def _find_commit() -> str:
    """Return the git commit of nsopt's sources, with `-dirty` if they have changed since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown (not a git checkout)"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    with suppress(OSError):
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or "unknown"
    return "unknown"
