"""The trained network that a study starts from: its file beside the results, and its ranking.

Every process of the study reads that file. Its checksum is part of the settings.
"""

from dataclasses import replace
from pathlib import Path

from nsopt.compute.checkpoint import weights_checksum
from nsopt.compute.device import Compute
from nsopt.deployment.trained import load_trained
from nsopt.errors import NsoptError
from nsopt.pruning.inherited import TrainedStart, rank_by_importance
from nsopt.storage.weights_file import write_weights
from nsopt.study.task import Task
from nsopt.study.workspace import Workspace
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervision import Supervision


def keep_start(task: Task, workspace: Workspace) -> None:
    """Write the network that a task starts from, if any, for workers and later runs."""
    path = _find_file(task, workspace)
    if task.start is None or path.is_file():
        return
    write_weights(path, {"state_dict": task.start.state_dict()})


def with_start(task: Task, workspace: Workspace) -> Task:
    """Return a stored task with the network of its settings' `start`, if any.

    Raises:
        NsoptError: if its file is missing, or holds other weights.
    """
    wanted, path = task.settings.start, _find_file(task, workspace)
    if wanted is None:
        return task
    if not path.is_file():
        raise NsoptError(
            f"{task.name} starts from a trained network: copy {path.name} from the folder of the "
            f"study to {path.parent}"
        )
    model = load_trained(path, task.arch)
    if weights_checksum(model) != wanted:
        raise NsoptError(f"{path} has other weights than {task.name} starts from")
    return replace(task, start=model)


def rank_start(task: Task, supervision: Supervision, compute: Compute) -> TrainedStart | None:
    """Return the network that a task starts from, with the ranking of its units; None without one.

    Args:
        supervision: its data on the device of `compute`.
    """
    if task.start is None:
        return None
    search = task.settings.search
    if isinstance(supervision, Classification):
        supervision = replace(supervision, resized_crop=search.resized_crop)
    ranking = rank_by_importance(task.arch, task.start, supervision, search, compute)
    return TrainedStart(task.arch, task.start, ranking, search.batch_size)


def _find_file(task: Task, workspace: Workspace) -> Path:
    """Return the file, named by its checksum: a folder may hold studies of several networks."""
    return workspace.folder / f"trained-{task.settings.start}.pt"
