"""The search of a task: its iterations in storage, and those that are missing."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.locks import one_at_a_time
from nsopt.data.cache import cache_folder
from nsopt.data.images import Splits
from nsopt.descent.iterations import descend
from nsopt.experiments.task import Task
from nsopt.experiments.workspace import Workspace
from nsopt.progress import Progress
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.record import Iteration
from nsopt.storage import schema, trials
from nsopt.training.supervision import Classification


def continue_search(
    task: Task, workspace: Workspace, iterations: int, compute: Compute, progress: Progress
) -> list[Iteration]:
    """The first `iterations` of architecture descent: those stored, then the missing ones.

    An iteration is written when it has ended, as one completed trial: an error or an interruption
    leaves the storage as it was. Within an iteration, a checkpoint is what the same command goes
    on from. Of two commands in one folder one searches, and the other waits.
    """
    if not iterations:
        return []
    folder = workspace.checkpoints(task.study_name(schema.SEARCH))

    def tell() -> None:
        progress.message("waiting for the search of another command in this folder")

    with one_at_a_time(cache_folder() / "locks", folder, tell):
        try:
            return _search(task, workspace, iterations, compute, progress)[:iterations]
        finally:
            workspace.tidy()


def stored_iterations(task: Task, workspace: Workspace) -> list[Iteration]:
    """What the storage has; NsoptError if other settings wrote it."""
    if not workspace.has_storage:
        return []
    study = task.stored_studies(workspace.storage).get(schema.SEARCH)
    return trials.read_iterations(study) if study else []


def descend_task(
    task: Task,
    splits: Splits,
    settings: SearchSettings,
    history: Sequence[Iteration],
    compute: Compute,
    progress: Progress,
    checkpoint: Path,
) -> Iterator[Iteration]:
    """`descend` with the device, the precision and the validation images that `settings` ask for.

    splits: those of the task's trainings; compute: whose turns on the device are taken.
    """
    if settings.val_fraction != task.settings.training.val_fraction:
        splits = task.data.split(settings.val_fraction)
    own = replace(resolve_compute(settings.device, settings.precision), lock=compute.lock)
    images = Classification(splits.to(own.device), settings.resized_crop)
    return descend(task.arch, images, settings, history, own, progress, checkpoint)


def _search(
    task: Task, workspace: Workspace, iterations: int, compute: Compute, progress: Progress
) -> list[Iteration]:
    history = stored_iterations(task, workspace)
    settings = task.settings.search.updated(iterations=iterations)
    checkpoint = workspace.checkpoints(task.study_name(schema.SEARCH)) / "search.pt"
    for number, iteration in enumerate(
        descend_task(task, task.splits, settings, history, compute, progress, checkpoint),
        start=len(history) + 1,
    ):
        study = task.open_study(workspace.storage, schema.SEARCH, compute)
        study.add_trial(trials.search_trial(iteration, number, task.arch.layer_names))
        history = trials.read_iterations(study)
        own = ", each layer on its own" if iteration.record.own_rows else ""
        progress.message(
            f"search iteration {number}: {len(iteration.record.tau)} rows{own}, "
            f"r2 {iteration.law.r2.min():.3f} at least, {iteration.seconds:.0f} s"
        )
    return history
