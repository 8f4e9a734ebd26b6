"""Images with labels as a task: their loss, and outputs and accuracy of networks."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.compute.device import (
    Compute,
    give_cached_memory_back,
    is_out_of_memory,
    no_memory_for,
    place,
)
from nsopt.data.augmentation import TrainingBatches, normalise
from nsopt.data.images import ImageSet, Splits
from nsopt.errors import OutOfMemoryError
from nsopt.models.networks import inputs_for, layout_of
from nsopt.tasks.agreement import Agreement, class_divergence, mask_impossible
from nsopt.tasks.supervision import Loss, Supervision
from nsopt.tracing.originals import copy_model

_BATCH = 500  # of an evaluation
_SUM = 1e-2  # how far from 1 the sum of probabilities may be
_TEMPERATURE = 2.0  # of the softmax of teacher and student (Hinton et al., 2015)


class AccuracyEvaluation:
    """Counts the images that a network classifies correctly, batch by batch.

    If a batch does not fit the device, all further batches have half its size.
    """

    def __init__(self, images: ImageSet, splits: Splits, compute: Compute) -> None:
        self._images, self._splits, self._compute = images, splits, compute
        self._batch = min(_BATCH, len(images))
        self.start_over()

    @property
    def complete(self) -> bool:
        return self._done == len(self._images)

    @property
    def score(self) -> float:
        """Percentage of the images so far that were correct."""
        return 100 * int(self._correct) / self._done

    @torch.no_grad()
    def advance(self, model: nn.Module) -> Tensor:
        """Evaluate `model` on the next batch; return its logits (B, classes).

        Raises:
            OutOfMemoryError: if not one image fits.
        """
        model.eval()
        device = self._compute.device
        while (result := self._run(model)) is None:
            give_cached_memory_back(device)
            if self._batch == 1:
                raise OutOfMemoryError(no_memory_for(device, "evaluating a single image"))
            self._batch //= 2
        logits, labels = result
        self._done += len(labels)
        self._correct += count_right(logits, labels)
        return logits

    def _run(self, model: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Return logits and labels of the next batch; None if it does not fit."""
        device = self._compute.device
        here = slice(self._done, self._done + self._batch)
        try:
            images, labels = self._images.batch(here, device)
            with self._compute.autocast():
                return model(inputs_for(model, normalise(images, self._splits))), labels
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error, device):
                raise
            return None

    def start_over(self) -> None:
        self._done = 0
        self._correct = torch.zeros((), dtype=torch.int64, device=self._compute.device)

    def state(self) -> dict[str, Any]:
        return {"done": self._done, "correct": self._correct}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._done, self._correct = state["done"], state["correct"]


@dataclass(frozen=True, eq=False)
class Classification(Supervision):
    """Images of `splits`, augmented by `resized_crop` (`SgdSettings`), and their cross-entropy."""

    splits: Splits
    resized_crop: float | None = None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Its loss remembers nothing."""

    def batches(self, batch_size: int, seed: int) -> TrainingBatches:
        return TrainingBatches(self.splits, batch_size, seed, self.resized_crop)

    def batch_size(self, requested: int) -> int:
        return requested

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(read_logits(outputs), targets)

    def distil(self, outputs_of_teacher: Tensor, weight: float) -> Loss:
        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            student, target = (
                functional.log_softmax(read_logits(tensor).float() / _TEMPERATURE, dim=1)
                for tensor in (outputs, outputs_of_teacher)
            )
            student, target = mask_impossible(student, target)
            soft = functional.kl_div(student, target, reduction="batchmean", log_target=True)
            hard = self.loss(outputs, labels)
            return torch.lerp(hard, (soft * _TEMPERATURE**2).to(hard.dtype), weight)

        return loss

    def validation(self, compute: Compute) -> AccuracyEvaluation:
        return AccuracyEvaluation(self.splits.validation, self.splits, compute)

    def test(self, compute: Compute) -> AccuracyEvaluation:
        return AccuracyEvaluation(self.splits.test, self.splits, compute)

    def comparison(self, trained: nn.Module, compute: Compute) -> Callable[[nn.Module], Agreement]:
        """Compare class probabilities on the validation images (`class_divergence`)."""
        images = self.splits.validation
        target: list[Tensor] = []  # computed at the first call

        def compare(model: nn.Module) -> Agreement:
            if not target:
                teacher = place(copy_model(trained), compute.device, layout_of(trained))
                target.append(read_logits(outputs_on(images, teacher, self.splits, compute)))
            logits = read_logits(outputs_on(images, model, self.splits, compute))
            return Agreement(class_divergence(logits, target[0]).nan_to_num(nan=math.inf))

        return compare

    def fingerprint(self) -> dict[str, Any]:
        return dict(self.splits.fingerprint)


def count_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many labels (B,) logits (B, classes) get right; those that are NaN get none."""
    return ((logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)).sum()


def outputs_on(images: ImageSet, model: nn.Module, splits: Splits, compute: Compute) -> Tensor:
    """Return the logits of a network for `images`, float32 (N, classes) on the CPU.

    Args:
        splits: whose statistics normalise the images.
    """
    evaluation, logits = AccuracyEvaluation(images, splits, compute), []
    while not evaluation.complete:
        logits.append(evaluation.advance(model).float().cpu())
    return torch.cat(logits)


def read_logits(outputs: Tensor) -> Tensor:
    """Return outputs (B, classes) as logits: of probabilities, as of Softmax, the logarithm.

    Outputs are probabilities if none is below 0 and they sum to 1 for every image. Another softmax
    would make all of them nearly equal.
    """
    values = outputs.detach()
    are_probabilities = _sum_to_one(values) & (values >= 0).all()
    logarithm = outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()
    return torch.where(are_probabilities, logarithm, outputs)


def are_squashed(outputs: Tensor) -> bool:
    """Return whether outputs (B, classes) lie between 0 and 1, as of Sigmoid, not of Softmax."""
    inside = bool((outputs > 0).all()) and bool((outputs <= 1).all())
    return inside and not _sum_to_one(outputs)


def _sum_to_one(outputs: Tensor) -> Tensor:
    return ((outputs.sum(1) - 1).abs() < _SUM).all()
