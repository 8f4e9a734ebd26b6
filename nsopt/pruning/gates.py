"""Gates: where channels are scored and masked (Molchanov et al., 2019; paper, equation 4).

A gate z_m = 1 multiplies channel m of a tensor y. The importance of the channel is (dE/dz_m)^2,
with dE/dz_m the sum over batch and space of dE/dy * y. No gate is ever built as a parameter:
behind a BatchNorm, y = gamma * x_hat + beta and that sum is gamma * dE/dgamma + beta * dE/dbeta;
elsewhere it is taken from the activation and its gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Gate(ABC):
    """One place at which the channels of a searched group are scored and masked."""

    @abstractmethod
    def gradient(self) -> Tensor:
        """dE/dz of the channels after a backward pass, (w_l,); zero for masked ones."""

    @abstractmethod
    def hold_at_zero(self, pruned: Tensor) -> None:
        """Make the channels of the mask `pruned` (w_l,) zero; called after every optimizer step."""


class BatchNormGate(Gate):
    """Behind a BatchNorm: masking zeroes gamma and beta."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self._norm = norm

    def gradient(self) -> Tensor:
        norm = self._norm
        if norm.weight.grad is None or norm.bias.grad is None:
            return torch.zeros_like(norm.weight)
        return (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).detach()

    @torch.no_grad()
    def hold_at_zero(self, pruned: Tensor) -> None:
        self._norm.weight.masked_fill_(pruned, 0)
        self._norm.bias.masked_fill_(pruned, 0)


class ActivationGate(Gate):
    """Behind an Identity that marks an activation: hooks mask it and read its gradient."""

    def __init__(self, marker: nn.Identity, channels: int, device: torch.device) -> None:
        self._kept = torch.ones(channels, dtype=torch.bool, device=device)
        self._gradient = torch.zeros(channels, device=device)
        marker.register_forward_hook(self._forward)

    def gradient(self) -> Tensor:
        return self._gradient

    def hold_at_zero(self, pruned: Tensor) -> None:
        self._kept = ~pruned

    def _forward(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        masked = output * self._kept[:, None, None]
        if masked.requires_grad:
            masked.register_hook(lambda gradient: self._score(gradient, masked.detach()))
        return masked

    def _score(self, gradient: Tensor, activation: Tensor) -> None:
        exact = torch.promote_types(activation.dtype, torch.float32)
        self._gradient = (gradient.to(exact) * activation.to(exact)).sum(dim=(0, 2, 3))


def make_gates(
    modules: Sequence[Sequence[nn.Module]], widths: Sequence[int], device: torch.device
) -> list[list[Gate]]:
    """The gates of each searched group. modules: as `Architecture.gate_modules` gives them."""
    return [
        [_gate(module, width, device) for module in group]
        for group, width in zip(modules, widths, strict=True)
    ]


def _gate(module: nn.Module, width: int, device: torch.device) -> Gate:
    if isinstance(module, nn.BatchNorm2d):
        return BatchNormGate(module)
    if isinstance(module, nn.Identity):
        return ActivationGate(module, width, device)
    raise TypeError(f"no gate stands behind a {type(module).__name__}")
