"""Taylor importance of filters (Molchanov et al., 2019; paper, equation 4).

A gate z_m = 1 multiplies channel m of a BatchNorm's output y = gamma * x_hat + beta. The
importance of the channel is (dE/dz_m)^2, with dE/dz_m the sum over batch and space of
dE/dy * y, which equals gamma * dE/dgamma + beta * dE/dbeta: no gate needs to be built.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def gate_gradients(gates: Sequence[nn.BatchNorm2d]) -> list[Tensor]:
    """dE/dz of each gate's channels after a backward pass; a tensor (w_l,) per gate."""
    return [
        (gate.weight * _gradient(gate.weight) + gate.bias * _gradient(gate.bias)).detach()
        for gate in gates
    ]


class ImportanceScores:
    """Mean importance of every channel over the mini-batches since the last `reset`."""

    def __init__(self, gates: Sequence[nn.BatchNorm2d]) -> None:
        self._gates = gates
        self.reset()

    def reset(self) -> None:
        """Forget what was accumulated."""
        self._totals = [torch.zeros_like(gate.weight) for gate in self._gates]
        self._batches = 0

    def accumulate(self) -> None:
        """Add the importance at the current gradients."""
        for total, gradient in zip(self._totals, gate_gradients(self._gates), strict=True):
            total.add_(gradient.square())
        self._batches += 1

    def mean(self) -> list[Tensor]:
        """Mean importance per channel; a tensor (w_l,) per gate."""
        return [total / self._batches for total in self._totals]


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
