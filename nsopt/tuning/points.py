"""Running the points of a tuning study, beside any number of other processes."""

from collections.abc import Mapping

from optuna.study import Study

from nsopt.progress import Progress
from nsopt.storage import trials
from nsopt.storage.queue import Entry, Work, drain, missing_points, run_missing
from nsopt.storage.trials import TuningPoint


def run_points(
    study: Study, points: Mapping[TuningPoint, Mapping[str, float]], work: Work, progress: Progress
) -> None:
    """Run every point that no trial has settled, and what a process that died left waiting.

    Args:
        points: with the parameters of their trials, empty where a sampler proposes them.
    """
    told = False

    def enqueue_missing() -> bool:
        missing = missing_points(study, points, trials.read_tuning_point)
        for point in missing:
            trials.enqueue_point(study, point, points[point])
        return bool(missing)

    def look() -> list[Entry]:
        progress.overall(_count_ended(study, points), len(points))
        return [(study, work)]

    def wait(running: bool) -> None:
        nonlocal told
        if running and not told:
            progress.message("waiting for a trial of another process")
            told = True

    run_missing(enqueue_missing, lambda: drain(look, wait))


def _count_ended(study: Study, points: Mapping[TuningPoint, object]) -> int:
    ended = {
        trials.read_tuning_point(trial)
        for trial in study.get_trials(deepcopy=False)
        if trials.is_settled(trial) and trial.state.is_finished()
    }
    return len(ended & points.keys())
