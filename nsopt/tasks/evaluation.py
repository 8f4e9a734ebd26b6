"""Outputs and accuracy on a set of images."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nsopt.compute.device import Compute
from nsopt.compute.out_of_memory import give_cached_memory_back, is_out_of_memory, no_memory_for
from nsopt.data.augmentation import normalise
from nsopt.data.images import ImageSet, Splits
from nsopt.errors import OutOfMemoryError
from nsopt.models.layout import inputs_for

_BATCH = 500


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


def count_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many labels (B,) logits (B, classes) get right; those that are NaN get none."""
    return ((logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)).sum()


def outputs_on(images: ImageSet, model: nn.Module, splits: Splits, compute: Compute) -> Tensor:
    """Return the logits of a network for `images`, float32 (N, classes) on the CPU.

    Call it inside `computing`.

    Args:
        splits: whose statistics normalise the images.
    """
    evaluation, logits = AccuracyEvaluation(images, splits, compute), []
    while not evaluation.complete:
        compute.give_way()
        logits.append(evaluation.advance(model).float().cpu())
    return torch.cat(logits)
