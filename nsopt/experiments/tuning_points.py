"""Running the points of a tuning study, beside any number of other processes."""

from collections.abc import Container, Iterable, Mapping

from optuna.study import Study

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
            progress.overall(_finished(study, points), len(points))
            claimed = claim(study, work)
            if claimed is not None:
                run(study, claimed, work)
            elif watch.look(study):
                progress.message("waiting for a trial of another process")
                watch.wait()


def _finished(study: Study, points: Container[TuningPoint]) -> int:
    return sum(point in points and ended for point, ended in _settled(study).items())


def _missing(study: Study, points: Iterable[TuningPoint]) -> list[TuningPoint]:
    settled = _settled(study)
    return [point for point in points if point not in settled]


def _settled(study: Study) -> dict[TuningPoint, bool]:
    """The points that have a trial, and whether that has ended. A failed one counts only if it
    would fail again."""
    return {
        trials.read_tuning_point(trial): trial.state.is_finished()
        for trial in study.get_trials(deepcopy=False)
        if trials.is_settled(trial)
    }
