"""Run the points of a tuning study, together with any number of other processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import TrialPruned
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from nsopt.compute.device import Compute
from nsopt.errors import DeterministicError
from nsopt.session.session import Session
from nsopt.storage import trials
from nsopt.storage.engine import Work, run_trials
from nsopt.storage.trials import TuningPoint


@dataclass(frozen=True, eq=False)
class PointRunner(Work):
    """Base of the classes that run trials of a tuning study of a session.

    The proposals of their samplers depend on the results so far and on the trial's index.
    """

    session: Session

    @property
    def compute(self) -> Compute:
        return self.session.compute

    def point(self, trial: FrozenTrial) -> TuningPoint | None:
        """Return the point of a trial; None if a user enqueued the trial."""
        return trials.read_tuning_point(trial) if trials.is_of_tuning(trial) else None

    def sampler_seed(self, trial: FrozenTrial) -> int:
        """Return the seed of a trial's sampler. Prune a trial that a user enqueued."""
        point = self.point(trial)
        if point is None:
            raise TrialPruned("the trial has no seed")
        return trial.number if point.index is None else point.index

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        self.session.progress.warning(f"trial {trial.number}: {error}")


def open_tuning(
    session: Session, name: str, tuned: Mapping[str, Any], objectives: Mapping[str, StudyDirection]
) -> Study:
    """Open or create a tuning study of a session's subject.

    Args:
        tuned: settings that decide its numbers, besides those of the subject.
        objectives: see `Subject.open_as`, as for errors.
    """
    subject, storage = session.subject, session.workspace.storage
    identity = subject.identity | {"tuning": dict(tuned)}
    return subject.open_as(storage, name, identity, objectives, session.compute)


def run_points(
    study: Study, points: Mapping[TuningPoint, Mapping[str, float]], runner: PointRunner
) -> None:
    """Run every point without a settled trial (`run_trials`).

    Args:
        points: the points with the parameters of their trials, empty if a sampler proposes them.
    """

    def enqueue(point: TuningPoint) -> None:
        trials.enqueue_point(study, point, points[point])

    run_trials(study, points, enqueue, runner, runner.session.progress)
