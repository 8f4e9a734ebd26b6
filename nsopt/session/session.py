"""The session: the object that every step of a study gets."""

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from optuna.study import Study
from torch import nn

from nsopt.compute.device import Compute, place, resolve_compute
from nsopt.compute.random_state import use_seed
from nsopt.compute.sharing import sharing
from nsopt.latency.allowance import LEAST, Allowance
from nsopt.latency.timer import Timer
from nsopt.progress import Progress
from nsopt.pruning.inherited import TrainedStart, inherit_network
from nsopt.session.start import rank_start
from nsopt.session.subject import Subject, with_stored_latency, write_latency_once
from nsopt.session.workspace import Workspace
from nsopt.tasks.supervise import supervise
from nsopt.tasks.supervision import Supervision, evaluate
from nsopt.tasks.task import Task
from nsopt.training.loop import train_configuration
from nsopt.training.outcome import Epoch, Outcome
from nsopt.training.settings import TrainSettings
from nsopt.training.trainer import Trainer, TrainerContext, train_by


@dataclass(frozen=True, eq=False)
class Session:
    """A subject with what is needed to work on it.

    Attributes:
        subject: network, images and settings.
        workspace: storage and folder.
        compute: the device, which other processes may share.
        progress: receives steps and messages.
    """

    subject: Subject
    workspace: Workspace
    compute: Compute
    progress: Progress

    @cached_property
    def supervision(self) -> Supervision:
        """The data for training, on the device of `compute`."""
        return supervise(self.subject.data, self.subject.settings.training, self.compute)

    @cached_property
    def start(self) -> TrainedStart | None:
        """The trained network that all trainings start from; None to train from scratch."""
        return rank_start(self.subject, self.supervision, self.compute)

    @cached_property
    def timer(self) -> Timer:
        """Times networks, with one allowance for all budgets of the session."""
        subject, allowance = self.subject, Allowance(LEAST)
        return Timer(
            self.compute, subject.runtime, self.progress, subject.inputs, allowance=allowance
        )

    def studies(self) -> dict[str, Study]:
        """Return the subject's stored studies by method or kind of search."""
        return self.workspace.studies(self.subject.name)

    def open_study(self, kind: str) -> Study:
        """Open or create the study of a method or of a search."""
        return self.subject.open_study(self.workspace.storage, kind, self.compute)

    def open_studies(self, methods: Iterable[str]) -> dict[str, Study]:
        """Open or create the studies of methods by their names, with their attributes as of now.

        Raises:
            NsoptError: if other settings wrote studies of the subject.
        """
        stored, opened = self.subject.stored_studies(self.workspace), dict[str, Study]()
        for name in dict.fromkeys(methods):
            if name in stored:
                opened[name] = stored[name]
                write_latency_once(stored[name], self.subject.arch.latency)
            else:
                opened[name] = self.open_study(name)
        return opened

    def train(
        self,
        widths: tuple[int, ...],
        settings: TrainSettings,
        checkpoint: Path,
        name: str,
        start: Callable[[], nn.Module] | None = None,
    ) -> Outcome:
        """Train the network of `widths`. See `train_configuration`.

        Args:
            start: makes the network to start from; by default it inherits from that of the subject.
        """
        subject, trained = self.subject, self.start
        if start is None and trained is not None:
            start = partial(inherit_network, trained, widths, self.supervision, self.compute)
        if isinstance(subject.data, Task) and subject.data.trainer is not None:
            return self._train_by(subject.data.trainer, widths, settings, checkpoint, name, start)
        return train_configuration(
            self.subject.arch,
            widths,
            self.supervision,
            settings,
            self.compute,
            self.progress,
            checkpoint,
            name=name,
            start=start,
            teacher=self.subject.start,
        )

    def _train_by(
        self,
        trainer: Trainer,
        widths: tuple[int, ...],
        settings: TrainSettings,
        checkpoint: Path,
        name: str,
        start: Callable[[], nn.Module] | None,
    ) -> Outcome:
        """Train by the user's function, whose own checkpoints go to a folder beside nsopt's."""
        arch, compute = self.subject.arch, self.compute
        self.progress.start(f"{name}, by the trainer", 1)
        with compute.computing(), use_seed(settings.seed, compute.device):
            model = place(start() if start else arch.build(widths), compute.device, arch.layout)
        folder = checkpoint.with_suffix(".trainer")
        context = TrainerContext(
            settings.seed, settings.epochs, compute.device, self.subject.start, folder
        )
        outcome = train_by(
            trainer, arch, widths, model, self.subject.data, self.supervision, compute, context
        )
        shutil.rmtree(folder)
        return outcome

    def validate_start(self) -> float:
        """Return the validation accuracy (%) of the network that the subject starts from."""
        assert self.subject.start is not None
        with self.compute.computing():
            model = place(self.subject.start, self.compute.device, self.subject.arch.layout)
            return evaluate(self.supervision.validation(self.compute), model, self.compute)

    def evaluate_start(self) -> Outcome:
        """Return the accuracies of the network that the subject starts from, without training."""
        subject, model = self.subject, self.subject.start
        assert model is not None
        began = time.perf_counter()
        validation = self.validate_start()
        with self.compute.computing():
            model = place(model, self.compute.device, subject.arch.layout)
            evaluation = self.supervision.test(self.compute)
            test = None if evaluation is None else evaluate(evaluation, model, self.compute)
        seconds = time.perf_counter() - began
        epoch = Epoch(math.nan, validation, test)
        return Outcome(subject.arch.base_widths, (epoch,), seconds, epoch, model)

    def with_latency_of(self, studies: Iterable[Study]) -> "Session":
        """Return this session with the latency model of one of the studies.

        Another command may have stored one since this session began.
        """
        if self.subject.arch.latency is not None:
            return self
        arch = with_stored_latency(self.subject.arch, studies)
        return (
            self
            if arch is self.subject.arch
            else replace(self, subject=replace(self.subject, arch=arch))
        )


@contextmanager
def start_session(
    subject: Subject, workspace: Workspace, progress: Progress, device: str | None = None
) -> Iterator[Session]:
    """Yield a session whose device other processes of this machine may share.

    Args:
        device: by default that of the subject's settings.

    Raises:
        NsoptError: if the device is not available.
    """
    training = subject.settings.training
    compute = resolve_compute(device or training.device, training.precision)
    with sharing(compute, progress) as shared:
        yield Session(subject, workspace, shared, progress)
