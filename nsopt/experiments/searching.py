"""The search of a task: its iterations in storage, and those that are missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from optuna.study import Study

from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.locks import one_at_a_time
from nsopt.data.cache import cache_folder
from nsopt.data.images import Splits
from nsopt.descent.iterations import descend
from nsopt.descent.search import images_of_search
from nsopt.experiments.task import Task
from nsopt.experiments.workspace import Workspace
from nsopt.progress import Progress
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.record import Iteration
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.provenance import provenance

Histories = Mapping[str, Sequence[Iteration]]  # by the kind of the search's study


def continue_search(
    task: Task,
    workspace: Workspace,
    iterations: int,
    compute: Compute,
    progress: Progress,
    price: Price | None = None,
) -> list[Iteration]:
    """The first `iterations` of architecture descent: those stored, then the missing ones.

    An iteration is written when it has ended, as one completed trial: an error or an interruption
    leaves the storage as it was. Within an iteration, a checkpoint is what the same command goes
    on from. Of two commands in one folder one searches, and the other waits. price: None for that
    of the settings.
    """
    if not iterations:
        return []
    folder = workspace.checkpoints(task.study_name(task.search_kind(price)))

    def tell() -> None:
        progress.message("waiting for the search of another command in this folder")

    with one_at_a_time(cache_folder() / "locks", folder, tell):
        try:
            return _search(task, workspace, iterations, compute, progress, price)[:iterations]
        finally:
            workspace.tidy()


def stored_searches(task: Task, workspace: Workspace) -> Histories:
    """What the storage has; NsoptError if other settings wrote it."""
    if not workspace.has_storage:
        return {}
    return histories(task.stored_searches(workspace.storage))


def histories(studies: Mapping[str, Study]) -> Histories:
    """The iterations of the searches among the studies of a comparison."""
    return {
        kind: trials.read_iterations(study)
        for kind, study in studies.items()
        if schema.is_search(kind)
    }


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
    images = images_of_search(splits, settings, own.device)
    return descend(task.arch, images, settings, history, own, progress, checkpoint)


def _search(
    task: Task,
    workspace: Workspace,
    iterations: int,
    compute: Compute,
    progress: Progress,
    price: Price | None,
) -> list[Iteration]:
    kind = task.search_kind(price)
    history = list(stored_searches(task, workspace).get(kind, ()))
    settings = task.search_settings(price).updated(iterations=iterations)
    checkpoint = workspace.checkpoints(task.study_name(kind)) / "search.pt"
    for number, iteration in enumerate(
        descend_task(task, task.splits, settings, history, compute, progress, checkpoint),
        start=len(history) + 1,
    ):
        study = task.open_study(workspace.storage, kind, compute)
        study.add_trial(
            trials.search_trial(iteration, number, task.arch.layer_names, provenance(compute))
        )
        history = trials.read_iterations(study)
        own = ", each layer on its own" if iteration.record.own_rows else ""
        progress.message(
            f"{kind} iteration {number}: {len(iteration.record.tau)} rows{own}, "
            f"r2 {iteration.law.r2.min():.3f} at least, {iteration.seconds:.0f} s"
        )
        doubts = iteration.doubts(task.arch.layer_names)
        if doubts:
            progress.message(f"{kind} iteration {number}: {doubts}")
    return history
