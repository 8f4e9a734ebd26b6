"""The searches of a task: their iterations in storage, and those that are missing."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from optuna.study import Study

from nsopt.compute.checkpoint import Checkpoint
from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.locks import is_being_done, one_at_a_time
from nsopt.data.cache import cache_folder
from nsopt.data.images import Splits
from nsopt.descent.iterations import descend
from nsopt.descent.search import images_of_search
from nsopt.errors import DeterministicError
from nsopt.experiments.task import Task
from nsopt.experiments.workspace import Workspace
from nsopt.progress import Progress
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.record import Iteration
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.provenance import provenance

_PRETRAINED = "pretrained"  # in place of a method: the checkpoint that searches share

Histories = Mapping[str, Sequence[Iteration]]  # by the kind of the search's study


def continue_searches(
    task: Task,
    workspace: Workspace,
    searches: Mapping[Price | None, int],
    compute: Compute,
    progress: Progress,
) -> dict[Price | None, list[Iteration]]:
    """The iterations of architecture descent by price: those stored, then the missing ones.

    searches: how many iterations are needed by price, None for that of the settings. They differ
    in nothing else, so that the first pre-trains the network for all.

    An iteration is written when it has ended, as one completed trial: an error or an interruption
    leaves the storage as it was. Within an iteration, a checkpoint is what the same command goes
    on from. Of two commands in one folder one searches, and the other waits.
    """
    found: dict[Price | None, list[Iteration]] = {}
    with _shared_network(task, workspace, len(searches)) as pretrained:
        for price, iterations in searches.items():
            is_last = len(found) + 1 == len(searches)
            kept = None if is_last and not pretrained.exists() else pretrained
            search = _Search(task, workspace, iterations, compute, progress, price, kept)
            found[price] = search.continued()
    return found


@contextmanager
def _shared_network(task: Task, workspace: Workspace, searches: int) -> Iterator[Path]:
    """The file of the pre-trained network. A command of several searches deletes it at the end, and
    after an error that would come again, unless another one searches in this folder."""
    path = workspace.checkpoints(task.study_name(_PRETRAINED)) / "network.pt"

    def let_go() -> None:
        if searches < 2:
            return
        kinds = {task.search_kind(price) for price in get_args(Price)}
        folders = [workspace.checkpoints(task.study_name(kind)) for kind in kinds]
        if not any(is_being_done(cache_folder() / "locks", folder) for folder in folders):
            Checkpoint(path, {}).remove()

    try:
        yield path
        let_go()
    except DeterministicError:
        let_go()
        raise
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
    pretrained: Path | None = None,
) -> Iterator[Iteration]:
    """`descend` with the device, the precision and the validation images that `settings` ask for.

    splits: those of the task's trainings; compute: whose turns on the device are taken.
    """
    if settings.val_fraction != task.settings.training.val_fraction:
        splits = task.data.split(settings.val_fraction)
    own = replace(resolve_compute(settings.device, settings.precision), lock=compute.lock)
    images = images_of_search(splits, settings, own.device)
    return descend(
        task.arch, images, settings, history, own, progress, checkpoint, pretrained=pretrained
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """One search of a task. pretrained: where its network is kept for searches of other prices."""

    task: Task
    workspace: Workspace
    iterations: int
    compute: Compute
    progress: Progress
    price: Price | None
    pretrained: Path | None

    @property
    def kind(self) -> str:
        return self.task.search_kind(self.price)

    def continued(self) -> list[Iteration]:
        """The iterations that are asked for, in this process's turn."""
        folder = self.workspace.checkpoints(self.task.study_name(self.kind))

        def tell() -> None:
            self.progress.message("waiting for the search of another command in this folder")

        with one_at_a_time(cache_folder() / "locks", folder, tell):
            history = list(stored_searches(self.task, self.workspace).get(self.kind, ()))
            for number, iteration in enumerate(
                self._missing(history, folder / "search.pt"), start=len(history) + 1
            ):
                history = self._write(number, iteration)
            return history[: self.iterations]

    def _missing(self, history: Sequence[Iteration], checkpoint: Path) -> Iterator[Iteration]:
        task, settings = self.task, self.task.search_settings(self.price)
        return descend_task(
            task,
            task.splits,
            settings.updated(iterations=self.iterations),
            history,
            self.compute,
            self.progress,
            checkpoint,
            self.pretrained,
        )

    def _write(self, number: int, iteration: Iteration) -> list[Iteration]:
        """Store an iteration that has ended; all that are stored."""
        layers = self.task.arch.layer_names
        study = self.task.open_study(self.workspace.storage, self.kind, self.compute)
        study.add_trial(trials.search_trial(iteration, number, layers, provenance(self.compute)))
        own = ", each layer on its own" if iteration.record.own_rows else ""
        self.progress.message(
            f"{self.kind} iteration {number}: {len(iteration.record.tau)} rows{own}, "
            f"r2 {iteration.law.r2.min():.3f} at least, {iteration.seconds:.0f} s"
        )
        doubts = iteration.doubts(layers)
        if doubts:
            self.progress.message(f"{self.kind} iteration {number}: {doubts}")
        return trials.read_iterations(study)
