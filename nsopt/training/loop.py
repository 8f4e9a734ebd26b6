"""The one training loop."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from nsopt.data.augmentation import evaluation_batches, training_batches
from nsopt.data.images import ImageData, ImageSet, Splits
from nsopt.errors import NonFiniteLossError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress, Silent
from nsopt.training.device import (
    Compute,
    explain_out_of_memory,
    place,
    resolve_compute,
    seeded,
    wait_for,
)
from nsopt.training.settings import TrainSettings

_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Epoch:
    """Mean training loss of one epoch, and accuracies in percent after it."""

    train_loss: float
    val_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Outcome:
    """What training one configuration gave; accuracies are percentages at the last epoch."""

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
        """Selected on the test set, as the paper reports it; never used to choose anything."""
        return max(epoch.test_accuracy for epoch in self.epochs)


def train(
    arch: Architecture,
    widths: Sequence[int],
    data: ImageData,
    settings: TrainSettings,
    progress: Progress | None = None,
) -> Outcome:
    """Train the network of `widths` from scratch.

    Raises NonFiniteLossError when the loss leaves the numbers, OutOfMemoryError when a batch does
    not fit the device.
    """
    compute = resolve_compute(settings.device, settings.precision)
    with seeded(settings.seed, compute.device):
        model = place(arch.build(widths), compute.device)
    splits = data.split(settings.val_fraction).to(compute.device)
    start = time.perf_counter()
    epochs = train_model(model, splits, settings, compute, progress or Silent())
    return Outcome(arch.check_widths(widths), epochs, time.perf_counter() - start)


def train_model(
    model: nn.Module,
    splits: Splits,
    settings: TrainSettings,
    compute: Compute,
    progress: Progress,
) -> tuple[Epoch, ...]:
    """Train `model` in place on `splits`, both already on the device; one Epoch per epoch."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, settings.milestones, settings.decay)
    generator = torch.Generator().manual_seed(settings.seed)
    history: list[Epoch] = []
    with seeded(settings.seed, compute.device), explain_out_of_memory(settings.batch_size):
        for _ in range(settings.epochs):
            loss = _train_epoch(model, optimizer, splits, settings.batch_size, generator, compute)
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"the loss became {loss} in epoch {len(history) + 1}: "
                    f"a learning rate below {settings.lr:g} may help"
                )
            schedule.step()
            val, test = (
                evaluate(model, images, splits, compute)
                for images in (splits.validation, splits.test)
            )
            history.append(Epoch(loss, val, test))
            progress.advance(f"loss {loss:.3f}, val {val:.1f} %")
        wait_for(compute.device)
    return tuple(history)


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    splits: Splits,
    batch_size: int,
    generator: torch.Generator,
    compute: Compute,
) -> float:
    """Mean loss over the epoch's images."""
    model.train()
    total, count = torch.zeros((), device=compute.device), 0
    for images, labels in training_batches(splits, batch_size, generator):
        optimizer.zero_grad()
        loss = batch_loss(model, images, labels, compute)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(labels)
        count += len(labels)
    return float(total) / count


def batch_loss(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, compute: Compute
) -> torch.Tensor:
    """Mean cross-entropy of a batch, in float32."""
    with compute.autocast():
        logits = model(images)
    return functional.cross_entropy(logits.float(), labels)


def probe_memory(
    arch: Architecture, widths: Sequence[int], batch_size: int, compute: Compute
) -> None:
    """Run one training step's forward and backward pass; OutOfMemoryError if it does not fit."""
    with explain_out_of_memory(batch_size), seeded(0, compute.device):
        model = place(arch.build(widths), compute.device)
        images = torch.zeros(batch_size, *arch.input_shape, device=compute.device)
        labels = torch.zeros(batch_size, dtype=torch.int64, device=compute.device)
        batch_loss(model, images, labels, compute).backward()


@torch.no_grad()
def evaluate(model: nn.Module, images: ImageSet, splits: Splits, compute: Compute) -> float:
    """Accuracy in percent on `images`."""
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=compute.device)
    for batch, labels in evaluation_batches(images, splits, _EVALUATION_BATCH):
        with compute.autocast():
            logits = model(batch)
        correct += (logits.argmax(dim=1) == labels).sum()
    return 100 * int(correct) / len(images)
