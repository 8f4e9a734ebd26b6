"""Trials that wait in a storage, each run by one of any number of processes.

`Study.optimize` would start an empty trial where another process was quicker, and its heartbeat
ends with the first answer that a server owes; hence a claim and a heartbeat of our own.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread

from optuna.exceptions import ExperimentalWarning, TrialPruned, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nsopt.errors import NonFiniteLossError, ShortRecordError
from nsopt.tuning import schema
from nsopt.tuning.servers import HEARTBEAT_SECONDS

_POLL_SECONDS = 1.0


def unfinished(study: Study) -> list[FrozenTrial]:
    """Trials that wait or run."""
    return study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING))


def claim(study: Study, sampler: Callable[[FrozenTrial], BaseSampler]) -> Trial | None:
    """A waiting trial that from now on is this process' to run; None if there is none.

    sampler: what samples the parameters of a given trial.
    """
    for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        try:
            if study._storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING):
                study.sampler = sampler(waiting)
                trial = Trial(study, waiting._trial_id)
                schema.write_worker(trial)
                return trial
        except UpdateFinishedTrialError:
            continue
    return None


def run(trial: Trial, objective: Callable[[Trial], Sequence[float]]) -> bool:
    """Run a claimed trial to its end; False if it was given to another process meanwhile.

    A training that diverges and a search without a law fail the trial, one that a pruner ends
    prunes it; other errors fail it and are raised.
    """
    with heartbeat(trial):
        try:
            values = objective(trial)
        except UpdateFinishedTrialError:
            return False
        except TrialPruned:
            return _tell(trial, state=TrialState.PRUNED)
        except (NonFiniteLossError, ShortRecordError):
            return _tell(trial, state=TrialState.FAIL)
        except BaseException:
            _tell(trial, state=TrialState.FAIL)
            raise
        return _tell(trial, values)


def _tell(
    trial: Trial, values: Sequence[float] | None = None, state: TrialState | None = None
) -> bool:
    try:
        trial.study.tell(trial, values, state)
    except (UpdateFinishedTrialError, ValueError):
        if trial.storage.get_trial(trial._trial_id).state.is_finished():
            return False
        raise
    return True


@contextmanager
def heartbeat(trial: Trial) -> Iterator[None]:
    """Show that the process which runs `trial` is alive."""
    storage = trial.storage
    if not isinstance(storage, BaseHeartbeat):
        yield
        return
    done = Event()

    def beat() -> None:
        with suppress(UpdateFinishedTrialError):
            while not done.is_set():
                storage.record_heartbeat(trial._trial_id)
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
    never counts as stale: the first look at a running trial gives it one.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def wait(self) -> None:
        """For as long as it makes sense until the next look."""
        time.sleep(_POLL_SECONDS)

    def look(self, study: Study) -> bool:
        """Whether trials of `study` are running, or were until their process died."""
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            if trial._trial_id not in self._seen and isinstance(study._storage, BaseHeartbeat):
                study._storage.record_heartbeat(trial._trial_id)
                self._seen.add(trial._trial_id)
        if running:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                fail_stale_trials(study)
        return bool(running)
