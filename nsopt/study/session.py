"""The session: the one object that every step of an experiment is given."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from optuna.study import Study
from torch import nn

from nsopt.compute.device import Compute
from nsopt.compute.placement import place_images
from nsopt.compute.sharing import sharing
from nsopt.data.images import Splits
from nsopt.progress import Progress
from nsopt.study.task import Task, with_stored_latency
from nsopt.study.workspace import Workspace
from nsopt.training.loop import Outcome, train_configuration
from nsopt.training.settings import TrainSettings


@dataclass(frozen=True, eq=False)
class Session:
    """A task, and everything that it takes to work on it.

    task: the network, the images and the settings; workspace: the storage and the folder of files;
    compute: the device, which other processes may share; progress: hears what happens.
    """

    task: Task
    workspace: Workspace
    compute: Compute
    progress: Progress

    @cached_property
    def splits(self) -> Splits:
        """The images that trainings see, from `place_images`."""
        return place_images(self.task.splits, self.compute)

    def studies(self) -> dict[str, Study]:
        """Return the stored studies of the task, by method or kind of search."""
        return self.workspace.studies(self.task.name)

    def open_study(self, kind: str) -> Study:
        """Return the study of a method or of a search; make it if it is missing."""
        return self.task.open_study(self.workspace.storage, kind, self.compute)

    def train(
        self,
        widths: tuple[int, ...],
        settings: TrainSettings,
        checkpoint: Path,
        name: str,
        start: Callable[[], nn.Module] | None = None,
    ) -> Outcome:
        """Train the network of `widths`; see `train_configuration`."""
        return train_configuration(
            self.task.arch,
            widths,
            self.splits,
            settings,
            self.compute,
            self.progress,
            checkpoint,
            task=name,
            start=start,
        )

    def with_latency_of(self, studies: Iterable[Study]) -> "Session":
        """Return this session with the latency model that one of the studies holds.

        A command with budgets in milliseconds may have stored one since this session began.
        """
        if self.task.arch.latency is not None:
            return self
        arch = with_stored_latency(self.task.arch, studies)
        return self if arch is self.task.arch else replace(self, task=replace(self.task, arch=arch))


@contextmanager
def start_session(
    task: Task, workspace: Workspace, compute: Compute, progress: Progress
) -> Iterator[Session]:
    """Work on a task with a device that this process shares with others of the machine."""
    with sharing(compute) as shared:
        yield Session(task, workspace, shared, progress)
