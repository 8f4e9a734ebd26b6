"""The session: the object that every step of a study gets."""

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from optuna.study import Study
from torch import nn

from nsopt.compute.checkpoint import weights_checksum
from nsopt.compute.device import Compute, nth_device, place, resolve_compute, use_seed
from nsopt.data.images import ImageData
from nsopt.deployment.kept import load_trained, write_weights
from nsopt.errors import NsoptError
from nsopt.latency.runtime import RUNTIMES
from nsopt.latency.timer import Timer
from nsopt.progress import Progress
from nsopt.pruning.inherited import TrainedStart, inherit_network, rank_by_importance
from nsopt.scaling.metric import MACS, Metric
from nsopt.session.agreement import with_score
from nsopt.session.processes import run_local_workers
from nsopt.session.subject import Subject, with_stored_latency, write_latency_once
from nsopt.session.workspace import Workspace
from nsopt.storage.trials import Point
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import supervise
from nsopt.tasks.supervision import Supervision, evaluate
from nsopt.tracing.originals import copy_model
from nsopt.training.loop import train_configuration
from nsopt.training.outcome import Epoch, Outcome
from nsopt.training.settings import TrainSettings
from nsopt.training.trainer import TrainerContext, train_by


@dataclass(frozen=True, eq=False)
class Session:
    """A subject with what is needed to work on it; other processes may share its device."""

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
        """The trained network that all trainings start from, with its units ranked; None to train
        from scratch."""
        subject, supervision = self.subject, self.supervision
        if subject.start is None:
            return None
        search = subject.settings.search
        if isinstance(supervision, Classification):
            supervision = replace(supervision, resized_crop=search.resized_crop)
        ranking = rank_by_importance(subject.arch, subject.start, supervision, search, self.compute)
        return TrainedStart(subject.arch, subject.start, ranking, search.batch_size)

    @cached_property
    def timer(self) -> Timer:
        """Times networks."""
        subject = self.subject
        return Timer(self.compute, subject.runtime, self.progress, subject.inputs)

    @property
    def trained(self) -> nn.Module:
        """The network of a subject that starts from one; run a copy, as it may leave marks."""
        assert self.subject.start is not None
        return self.subject.start

    def studies(self) -> dict[str, Study]:
        """Return the subject's stored studies by method or kind of search."""
        return self.workspace.studies(self.subject.name)

    def open_study(self, kind: str) -> Study:
        return self.subject.open_study(self.workspace.storage, kind, self.compute)

    def open_studies(self, methods: Iterable[str]) -> dict[str, Study]:
        """Open or create the studies of methods by their names, with their attributes as of now.

        Raises NsoptError if other settings wrote studies of the subject.
        """
        subject, opened = self.subject, dict[str, Study]()
        stored = subject.stored_studies(self.workspace)
        for name in dict.fromkeys(methods):
            if name in stored:
                write_latency_once(stored[name], subject.arch.latency, subject.settings.timed)
            opened[name] = stored.get(name) or self.open_study(name)
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
        subject, arch, compute = self.subject, self.subject.arch, self.compute
        if start is None and self.start is not None:
            start = partial(inherit_network, self.start, widths, self.supervision, compute)
        if subject.trainer is None:
            return train_configuration(
                arch,
                widths,
                self.supervision,
                settings,
                compute,
                self.progress,
                checkpoint,
                name=name,
                start=start,
                teacher=subject.start,
                origin={
                    "start": subject.settings.start,
                    "magnitude_epochs": subject.settings.magnitude_epochs,
                },
            )
        self.progress.start(f"{name}, by the trainer", 1)
        with use_seed(settings.seed, compute.device):
            model = place(start() if start else arch.build(widths), compute.device, arch.layout)
        folder = checkpoint.with_suffix(".trainer")  # for the trainer's own checkpoints
        teacher = None if subject.start is None else copy_model(subject.start).cpu().eval()
        context = TrainerContext(settings.seed, settings.epochs, compute.device, teacher, folder)
        try:
            about = arch, widths, model, subject.training_data, self.supervision, compute
            outcome = train_by(subject.trainer, *about, context)
        except NsoptError:  # its end, unlike an interruption
            shutil.rmtree(folder, ignore_errors=True)  # the trainer may have removed it
            raise
        shutil.rmtree(folder, ignore_errors=True)
        return outcome

    def find_checkpoint(self, point: Point) -> Path:
        """Return the file from which the training of a point continues."""
        folder = self.workspace.checkpoints(self.subject.study_name(point.method))
        return folder / f"{point.metric.name}-{point.budget}-seed{point.seed}.pt"

    def validate(self, model: nn.Module) -> float:
        """Return the validation score of a network, which moves to the device."""
        placed = place(model, self.compute.device, self.subject.arch.layout)
        return evaluate(self.supervision.validation(self.compute), placed)

    def evaluate_start(self) -> Outcome:
        """Return the scores of the network that the subject starts from, without training."""
        trained = copy_model(self.trained)
        return self.evaluate(trained, self.subject.arch.base_widths, time.perf_counter())

    def evaluate(self, model: nn.Module, widths: tuple[int, ...], began: float) -> Outcome:
        """Return the scores of a network that nsopt does not train.

        Args:
            began: when work on it began, by `time.perf_counter`.
        """
        validation = self.validate(model)
        evaluation = self.supervision.test(self.compute)
        test = None if evaluation is None else evaluate(evaluation, model)
        epoch = Epoch(math.nan, validation, test)
        return Outcome(widths, (), time.perf_counter() - began, epoch, model)

    def with_latency_of(self, studies: Iterable[Study]) -> "Session":
        """Return this session with the latency model of one of the studies.

        Another command may have stored one since this session began.
        """
        subject, arch = self.subject, self.subject.arch
        if arch.latency is None:
            arch = with_stored_latency(arch, studies, subject.settings.timed)
        return self if arch is subject.arch else replace(self, subject=replace(subject, arch=arch))


def warn_of_batch(session: Session, metrics: Iterable[Metric]) -> None:
    """Warn at budgets in MACs if inputs seem to have another first dimension than the batch."""
    arch, limits_macs = session.subject.arch, any(MACS in metric.parts for metric in metrics)
    if limits_macs and arch.batch_warning:
        session.progress.warning(f"{arch.name}: {arch.batch_warning}")


def start_session(
    subject: Subject, workspace: Workspace, progress: Progress, device: str | None = None
) -> Session:
    """Return a session whose device other processes of this machine may share.

    A task without a score gets one, if networks are fitted without training. Without `device` it is
    that of the subject's settings; NsoptError is raised if it is not available.
    """
    training = subject.settings.training
    compute = resolve_compute(device or training.device, training.precision)
    scored = subject
    if subject.start is not None:
        # now: sums in another layout end a little apart
        place(subject.start, compute.device, subject.arch.layout)
        scored = with_score(subject)
    session = Session(scored, workspace, compute, progress)
    if subject.unread and session.studies():
        progress.warning(
            f"nsopt cannot tell whether {', '.join(subject.unread)}, which {subject.data.name} "
            "reads, changed since the results so far: if so, give another out=, or nsopt.Task "
            "another version="
        )
    return session


@contextmanager
def run_other_workers(session: Session) -> Iterator[None]:
    """Run a session's other workers while the block runs. Each gets its share of the cores."""
    workspace = session.workspace
    if workspace.workers == 1:
        yield
        return
    cores = torch.get_num_threads()
    threads = max(1, cores // workspace.workers)
    same = [
        f"--study={session.subject.name}",
        f"--arch={session.subject.arch.name}",
        f"--data-dir={workspace.data_dir}",
        f"--out={workspace.folder}",
        f"--threads={threads}",
        "--child",
    ]
    if not isinstance(session.subject.data, ImageData):
        same.append(f"--task={session.subject.source.name}")
    if session.subject.runtime.name not in RUNTIMES:
        same.append(f"--measure={session.subject.runtime.name}")
    options = [
        [*same, f"--device={nth_device(session.compute.device, number)}"]
        for number in range(1, workspace.workers)
    ]
    torch.set_num_threads(threads)
    try:
        with run_local_workers(options, workspace.url, session.progress):
            yield
    finally:
        torch.set_num_threads(cores)


def keep_start(subject: Subject, workspace: Workspace) -> None:
    """Write the network that a subject starts from, if any, for workers and later runs.

    Its checksum is part of the settings.
    """
    path = _find_start(subject, workspace)
    if subject.start is None or path.is_file():
        return
    write_weights(path, {"state_dict": subject.start.state_dict()})


def with_start(subject: Subject, workspace: Workspace) -> Subject:
    """Return a stored subject with the network of its settings' `start`, if any.

    Raises:
        NsoptError: if its file is missing, or holds other weights.
    """
    wanted, path = subject.settings.start, _find_start(subject, workspace)
    if wanted is None:
        return subject
    if not path.is_file():
        raise NsoptError(
            f"{subject.name} starts from a trained network: give the folder of the study as out=, "
            f"or copy {path.name} from it to {path.parent}"
        )
    model = load_trained(path, subject.arch)
    if weights_checksum(model) != wanted:
        raise NsoptError(f"{path} has other weights than {subject.name} starts from")
    return replace(subject, start=model)


def _find_start(subject: Subject, workspace: Workspace) -> Path:
    """Return the file, named by its checksum: a folder may hold studies of several networks."""
    return workspace.folder / f"trained-{subject.settings.start}.pt"
