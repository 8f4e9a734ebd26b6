"""Accuracy on a set of images."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nsopt.compute.device import Compute
from nsopt.data.augmentation import normalise
from nsopt.data.images import ImageSet, Splits

_BATCH = 500


class Evaluation:
    """Counts the images that a network gets right, batch by batch."""

    def __init__(self, images: ImageSet, splits: Splits, compute: Compute) -> None:
        self._images = images
        self._splits = splits
        self._compute = compute
        self.start_over()

    def start_over(self) -> None:
        """Forget what was counted."""
        self._done = 0
        self._correct = torch.zeros((), dtype=torch.int64, device=self._compute.device)

    @property
    def complete(self) -> bool:
        """Whether all images have been seen."""
        return self._done == len(self._images)

    @property
    def accuracy(self) -> float:
        """Percentage of the images seen that were right."""
        return 100 * int(self._correct) / self._done

    @torch.no_grad()
    def advance(self, model: nn.Module) -> None:
        """Evaluate `model` on the next batch."""
        model.eval()
        here = slice(self._done, self._done + _BATCH)
        images, labels = self._images.pixels(here), self._images.labels[here]
        with self._compute.autocast():
            logits = model(normalise(images, self._splits))
        self._correct += (logits.argmax(dim=1) == labels).sum()
        self._done += len(labels)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the next batch."""
        return {"done": self._done, "correct": self._correct}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the evaluation that gave `state` was."""
        self._done, self._correct = state["done"], state["correct"]
