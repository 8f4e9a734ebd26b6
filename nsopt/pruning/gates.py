"""Gates: the places where channels are scored (Molchanov et al., 2019; paper, equation 4).

A gate z_m = 1 multiplies channel m of a tensor y. The importance of the channel is (dE/dz_m)^2,
where dE/dz_m is the sum of dE/dy * y over batch and space. No gate is built as a parameter. Behind
a BatchNorm, y = gamma * x_hat + beta, so the sum is gamma * dE/dgamma + beta * dE/dbeta. Elsewhere
it comes from the activation and its gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Gate = Callable[[], Tensor]  # returns dE/dz of a group's channels after a backward pass, (w_l,)


class ActivationGate:
    """A gate behind an Identity that marks an activation.

    Hooks read the activation and its gradient.
    """

    def __init__(self, marker: nn.Identity) -> None:
        self._gradient = torch.zeros(0)
        marker.register_forward_hook(self._watch)

    def __call__(self) -> Tensor:
        return self._gradient

    def _watch(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            activation = output.detach()
            output.register_hook(lambda gradient: self._score(gradient, activation))

    def _score(self, gradient: Tensor, activation: Tensor) -> None:
        exact = torch.promote_types(activation.dtype, torch.float32)
        self._gradient = (gradient.to(exact) * activation.to(exact)).sum(dim=(0, 2, 3))


def make_gate(module: nn.Module) -> Gate:
    """Return the gate behind a BatchNorm, or behind an Identity that marks an activation."""
    if isinstance(module, nn.BatchNorm2d):
        return partial(_score_norm, module)
    if isinstance(module, nn.Identity):
        return ActivationGate(module)
    raise TypeError(f"cannot score channels behind a {type(module).__name__}")


def _score_norm(norm: nn.BatchNorm2d) -> Tensor:
    return dot_gradients(norm.weight, 0) + dot_gradients(norm.bias, 0)


def dot_gradients(parameter: Tensor, axis: int) -> Tensor:
    """Return the products of a parameter's slices along an axis with their gradients, (n,)."""
    if parameter.grad is None:
        return parameter.real.new_zeros(parameter.shape[axis])
    slices = (parameter.conj() * parameter.grad).real.detach().movedim(axis, 0)
    return slices.reshape(len(slices), -1).sum(dim=1)


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
