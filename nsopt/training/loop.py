"""Train a network of given widths."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from nsopt.compute.checkpoint import Checkpoint, State, weights_checksum
from nsopt.compute.device import Compute, place, resolve_compute, wait_for
from nsopt.compute.memory import keep_memory
from nsopt.compute.out_of_memory import explain_out_of_memory
from nsopt.compute.placement import place_images
from nsopt.compute.random_state import OwnRandomState, use_seed
from nsopt.data.augmentation import TrainingBatches
from nsopt.data.images import ImageData, Splits
from nsopt.errors import NonFiniteLossError, NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.layout import inputs_for
from nsopt.models.tracing.originals import copy_model
from nsopt.progress import Progress, Silent
from nsopt.scaling.cost import Widths
from nsopt.training.evaluation import Evaluation
from nsopt.training.fine_tuning import average_of, distil, make_schedule
from nsopt.training.kernels.swap import fast_kernels
from nsopt.training.settings import TrainSettings
from nsopt.training.step import Loss, sgd, train_step

_FORMAT = 4  # of the checkpoint of an unfinished training


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training.

    Attributes:
        train_loss: mean training loss.
        val_accuracy: validation accuracy (%) after the epoch.
        test_accuracy: test accuracy (%) after the epoch.
    """

    train_loss: float
    val_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class TrainingNumbers:
    """The numbers of a training; accuracies in percent, at the last epoch.

    Attributes:
        seconds: of training and evaluation, without interruptions.
    """

    widths: tuple[int, ...]
    epochs: tuple[Epoch, ...]
    seconds: float

    @property
    def losses(self) -> tuple[float, ...]:
        """Mean training loss per epoch."""
        return tuple(epoch.train_loss for epoch in self.epochs)

    @property
    def val_accuracy(self) -> float:
        return self.epochs[-1].val_accuracy

    @property
    def test_accuracy(self) -> float:
        return self.epochs[-1].test_accuracy

    @property
    def test_accuracy_best_epoch(self) -> float:
        """Selected on the test set, as in the paper; nsopt only reports it."""
        return max(epoch.test_accuracy for epoch in self.epochs)


@dataclass(frozen=True)
class Outcome(TrainingNumbers):
    """The result of a training.

    Attributes:
        widths: of the network, L integers.
        epochs: an `Epoch` each.
        val_accuracy: validation accuracy (%) after the last epoch.
        test_accuracy: test accuracy (%) after the last epoch.
        test_accuracy_best_epoch: test accuracy (%) of the best epoch, selected on the test images
            as in the paper; only for comparison.
        losses: mean training loss of every epoch.
        seconds: of training and evaluation, without interruptions.
        model: the trained network, on the device of the training.
        mean: per channel, of pixels from 0 to 1, by which images were normalised.
        std: standard deviation, in the same way.
    """

    model: nn.Module = field(repr=False, compare=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]


def train(
    arch: Architecture,
    widths: Widths,
    data: ImageData,
    settings: TrainSettings,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    start: nn.Module | None = None,
    teacher: nn.Module | None = None,
    on_epoch: Callable[[int, Epoch], None] = lambda epoch, metrics: None,
) -> Outcome:
    """Train the network of `widths`, from scratch or from the weights of `start`.

    Several trainings may run at once in threads of one process.

    Args:
        arch: the family of networks.
        widths: L integers, one per searched layer.
        data: images with labels.
        settings: epochs, learning rate, device and so on.
        progress: receives steps and messages; None for silence.
        checkpoint: a file from which the same call continues after an interruption. It is written
            every 30 seconds and removed at the end.
        start: a network of these widths, such as `arch.inherit` makes; it does not change.
        teacher: a trained network for `settings.distillation`.
        on_epoch: called after each epoch with its number, from 1, and its metrics. An exception,
            such as Optuna's TrialPruned, ends the training.

    Returns:
        Accuracies in percent, losses per epoch, seconds and the trained network.

    Raises:
        NonFiniteLossError: if the loss becomes NaN or infinite.
        OutOfMemoryError: if a batch does not fit the device.
        NsoptError: for invalid widths, or a checkpoint of another training.

    Examples:
        >>> settings = nsopt.TrainSettings(epochs=2, batch_size=32, lr=0.02)
        >>> nsopt.train(arch, arch.base_widths, nsopt.load_data("digits"), settings).test_accuracy
    """
    compute = resolve_compute(settings.device, settings.precision)
    splits = place_images(data.split(settings.val_fraction), compute)
    return train_configuration(
        arch,
        arch.check_widths(widths),
        splits,
        settings,
        compute,
        progress or Silent(),
        checkpoint,
        start=None if start is None else lambda: copy_model(start),
        teacher=None if teacher is None else copy_model(teacher),
        after_epoch=lambda epochs: on_epoch(len(epochs), epochs[-1]),
        origin={
            name: weights_checksum(model)
            for name, model in (("start", start), ("teacher", teacher))
            if checkpoint is not None and model is not None
        },
    )


def train_configuration(
    arch: Architecture,
    widths: tuple[int, ...],
    splits: Splits,
    settings: TrainSettings,
    compute: Compute,
    progress: Progress,
    checkpoint: Path | None,
    task: str = "training",
    start: Callable[[], nn.Module] | None = None,
    teacher: nn.Module | None = None,
    after_epoch: Callable[[Sequence[Epoch]], None] = lambda epochs: None,
    origin: Mapping[str, Any] = MappingProxyType({}),
) -> Outcome:
    """Train the network of `widths` on images.

    Studies, tunings and `compress` with `data` use this.

    Args:
        splits: from `place_images`.
        checkpoint, teacher: see `train`.
        task: its name for `progress`.
        start: makes the network to start from, by default a newly initialised one.
        after_epoch: gets the epochs so far, and may end the training for good with an exception.
        origin: what the checkpoint depends on besides the other arguments.
    """
    identity = identify_training(arch, widths, splits, settings) if checkpoint else {}
    file = Checkpoint(checkpoint, {**identity, "format": _FORMAT, **origin})
    with explain_out_of_memory(compute.device, settings.batch_size), compute.computing():
        saved = file.load(compute.device)
        with use_seed(settings.seed, compute.device):
            model = place(start() if start else arch.build(widths), compute.device, arch.layout)
        if teacher is not None:
            teacher = place(teacher, compute.device, arch.layout).eval()
        average = average_of(model, settings.averaging)
        progress.start(task, settings.epochs)
        with keep_memory(compute.device), fast_kernels(model):
            training = _Training(model, splits, settings, compute, average, teacher)
            if saved is not None:
                training.restore(saved)
            for _ in training.epochs:
                progress.advance()
            while len(training.epochs) < settings.epochs:
                compute.give_way()
                _advance(training, file, progress, after_epoch)
    file.remove()
    trained = model if average is None else average.module
    epochs = tuple(training.epochs)
    return Outcome(widths, epochs, training.seconds, trained, *splits.normalisation)


def _advance(
    training: "_Training",
    file: Checkpoint,
    progress: Progress,
    after_epoch: Callable[[Sequence[Epoch]], None],
) -> None:
    """Do one small step; report an epoch that it ends; save the state when it is time."""
    done = len(training.epochs)
    with file.remove_on(NonFiniteLossError):
        training.advance()
    if len(training.epochs) > done:
        latest = training.epochs[-1]
        progress.advance(f"loss {latest.train_loss:.3f}, val {latest.val_accuracy:.1f} %")
        with file.remove_on(Exception):
            after_epoch(training.epochs)
    file.save_when_due(training.state)


def identify_training(
    arch: Architecture, widths: Sequence[int], splits: Splits, settings: TrainSettings
) -> dict[str, Any]:
    """Return everything that a training depends on, which identifies its checkpoint and weights."""
    network = {"arch": arch.name, "widths": list(widths), "classes": arch.num_classes}
    kept = settings.model_dump(mode="json", exclude={"device"})
    return network | {"data": splits.fingerprint, "training": kept}


class _Training:
    """One training as a sequence of small steps, between which its state can be saved."""

    def __init__(
        self,
        model: nn.Module,
        splits: Splits,
        settings: TrainSettings,
        compute: Compute,
        average: AveragedModel | None,
        teacher: nn.Module | None,
    ) -> None:
        self._model = model
        self._average = average
        self._teacher = teacher
        self._settings = settings
        self._compute = compute
        self._randomness = OwnRandomState(settings.seed, compute.device)
        self._optimizer = sgd(model, settings.lr, settings.momentum, settings.weight_decay)
        self._data = TrainingBatches(
            splits, settings.batch_size, settings.seed, settings.resized_crop
        )
        self._schedule = make_schedule(self._optimizer, settings, self._data.per_epoch)
        self._validation = Evaluation(splits.validation, splits, compute)
        self._test = Evaluation(splits.test, splits, compute)
        self._batch, self._images = 0, 0
        self._loss = torch.zeros((), device=compute.device)
        self._started = time.perf_counter()
        self.epochs: list[Epoch] = []

    @property
    def seconds(self) -> float:
        """Spent on this training so far, also before interruptions."""
        wait_for(self._compute.device)
        return time.perf_counter() - self._started

    def advance(self) -> None:
        """Train, validate or test on the next batch; the epoch ends after the last one.

        Raises NonFiniteLossError if the epoch's mean loss is NaN or infinite.
        """
        with self._randomness.in_use():
            if self._batch < self._data.per_epoch:
                self._train_batch()
                if self._batch == self._data.per_epoch:
                    self._check_loss()
            elif not self._validation.complete:
                self._validation.advance(self._evaluated)
            else:
                self._test.advance(self._evaluated)
                if self._test.complete:
                    self._end_epoch()

    @property
    def _evaluated(self) -> nn.Module:
        """The network to evaluate: the model, or the average of its weights."""
        return self._model if self._average is None else self._average.module

    def _train_batch(self) -> None:
        self._model.train()
        images, labels = self._data.next()
        value = self._choose_loss(images)
        loss = train_step(self._model, self._optimizer, images, labels, self._compute, value)
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self._model)
        self._loss += loss * len(labels)
        self._images += len(labels)
        self._batch += 1

    def _choose_loss(self, images: Tensor) -> Loss:
        """Return the loss for a batch, which may depend on the teacher's outputs."""
        weight = self._settings.distillation
        if weight is None:
            return functional.cross_entropy
        if self._teacher is None:
            raise NsoptError("distillation needs a teacher: train(..., teacher=...)")
        with torch.no_grad(), self._compute.autocast():
            return distil(self._teacher(inputs_for(self._teacher, images)), weight)

    def _check_loss(self) -> None:
        if not torch.isfinite(self._loss):
            raise NonFiniteLossError(
                f"the loss became {float(self._loss)} in epoch {len(self.epochs) + 1}: "
                f"try a learning rate below {self._settings.lr:g}"
            )

    def _end_epoch(self) -> None:
        mean_loss = float(self._loss) / self._images
        accuracies = (self._validation.accuracy, self._test.accuracy)
        self.epochs.append(Epoch(mean_loss, *accuracies))
        self._validation.start_over()
        self._test.start_over()
        self._batch, self._images = 0, 0
        self._loss = torch.zeros_like(self._loss)

    def state(self) -> State:
        """Return the state from which `restore` continues with the same numbers."""
        return {
            "model": self._model.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "data": self._data.state(),
            "validation": self._validation.state(),
            "test": self._test.state(),
            "batch": self._batch,
            "images": self._images,
            "loss": self._loss,
            "epochs": [list(astuple(epoch)) for epoch in self.epochs],
            "random": self._randomness.state(),
            "seconds": self.seconds,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`."""
        self._model.load_state_dict(state["model"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._data.restore(state["data"])
        self._validation.restore(state["validation"])
        self._test.restore(state["test"])
        self._batch, self._images, self._loss = state["batch"], state["images"], state["loss"]
        self.epochs = [Epoch(*numbers) for numbers in state["epochs"]]
        self._randomness.restore(state["random"])
        self._started = time.perf_counter() - state["seconds"]
