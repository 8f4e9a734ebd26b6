"""Taylor importance of channels, averaged over mini-batches (paper, equation 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsopt.pruning.gates import Gate


class ImportanceScores:
    """Mean importance of every channel over mini-batches. A decay makes earlier batches count less.

    In a group of several layers the importance of a channel is the sum over its gates.
    """

    def __init__(self, gates: Sequence[Sequence[Gate]]) -> None:
        self._gates = gates
        self._totals: list[Tensor] | None = None
        self._batches = 0.0

    def shrink(self, kept: Sequence[NDArray[np.bool_]], decay: float) -> None:
        """Keep the scores of some channels.

        Args:
            kept: masks (w_l,) of the channels to keep, per group.
            decay: weight of the scores so far; 0 drops them.
        """
        if decay == 0 or self._totals is None:
            self._totals, self._batches = None, 0.0
            return
        masks = (torch.from_numpy(mask) for mask in kept)
        self._totals = [
            decay * total[mask.to(total.device)]
            for total, mask in zip(self._totals, masks, strict=True)
        ]
        self._batches *= decay

    def accumulate(self) -> None:
        """Add the importance at the current gradients."""
        scores = [
            torch.stack([gate().square() for gate in group]).sum(dim=0) for group in self._gates
        ]
        if self._totals is not None:
            scores = [total + score for total, score in zip(self._totals, scores, strict=True)]
        self._totals = scores
        self._batches += 1

    def mean(self) -> list[Tensor]:
        """Return the mean importance per channel, a tensor (w_l,) per group.

        Raises:
            ValueError: if no mini-batch was scored.
        """
        if self._totals is None:
            raise ValueError("no mini-batch was scored")
        return [total / self._batches for total in self._totals]

    def state(self) -> dict[str, Any]:
        """Return everything from which `restore` continues."""
        return {"totals": self._totals, "batches": self._batches}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._totals, self._batches = state["totals"], state["batches"]
