"""Gates: the places where channels are scored (Molchanov et al., 2019; paper, equation 4).

A gate z_m = 1 multiplies channel m of a tensor y. The importance of the channel is (dE/dz_m)^2,
where dE/dz_m is the sum of dE/dy * y over batch and space. No gate is built as a parameter. Behind
a BatchNorm, y = gamma * x_hat + beta, so the sum is gamma * dE/dgamma + beta * dE/dbeta. Elsewhere
it comes from the activation and its gradient.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from nsopt.training.kernels.folding import channel_dot

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
        self._gradient = channel_dot(gradient, activation)


def make_gates(modules: Sequence[Sequence[nn.Module]]) -> list[list[Gate]]:
    """Return the gates of each group.

    Args:
        modules: per group, from `Architecture.gate_modules`.
    """
    return [[_make_gate(module) for module in group] for group in modules]


def _make_gate(module: nn.Module) -> Gate:
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
