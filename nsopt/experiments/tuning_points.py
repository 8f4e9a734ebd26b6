"""Running the points of a tuning study, beside any number of other processes."""

from collections.abc import Mapping

from optuna.study import Study
from optuna.trial import TrialState

from nsopt.progress import Progress
from nsopt.storage import trials
from nsopt.storage.queue import Watch, Work, claim, run
from nsopt.storage.studies import has_unfinished
from nsopt.storage.trials import TuningPoint


def run_points(
    study: Study, points: Mapping[TuningPoint, Mapping[str, float]], work: Work, progress: Progress
) -> None:
    """Run every point that no trial has settled, and what a process that died left waiting; what
    other processes run is waited for.

    points: with the parameters of their trials, empty where those are proposed.
    """
    watch = Watch()
    while True:
        for point in _missing(study, points):
            trials.enqueue_point(study, point, points[point])
        if not has_unfinished(study):
            return
        while has_unfinished(study):
            done = len(points) - len(_missing(study, points)) - _unfinished(study)
            progress.overall(max(0, done), len(points))
            claimed = claim(study, work)
            if claimed is not None:
                run(study, claimed, work)
            elif watch.look(study):
                progress.message("waiting for a trial of another process")
                watch.wait()


def _unfinished(study: Study) -> int:
    states = (TrialState.WAITING, TrialState.RUNNING)
    return len(study.get_trials(deepcopy=False, states=states))


def _missing(study: Study, points: Mapping[TuningPoint, Mapping[str, float]]) -> list[TuningPoint]:
    """Points without a trial. A failed one counts only if it would fail again."""
    stored = study.get_trials(deepcopy=False)
    settled = {trials.read_tuning_point(trial) for trial in stored if trials.is_settled(trial)}
    return [point for point in points if point not in settled]
