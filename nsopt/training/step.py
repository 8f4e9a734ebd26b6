"""One step of training, for search and training."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.profiler import record_function
from torch.utils._pytree import tree_map_only

from nsopt.compute.device import Compute, place, wait_for
from nsopt.compute.memory import keep_memory
from nsopt.compute.out_of_memory import explain_out_of_memory
from nsopt.compute.random_state import use_seed
from nsopt.models.architecture import Architecture
from nsopt.models.inputs import call_network
from nsopt.models.layout import inputs_for
from nsopt.tasks.supervision import Loss
from nsopt.training.kernels.swap import fast_kernels

_TIMED, _ENOUGH_SECONDS = 3, 0.5


def sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Return the paper's optimizer, with all parameters in one group."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    inputs: Any,
    targets: Any,
    compute: Compute,
    loss: Loss = functional.cross_entropy,
    before_update: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Update the weights of `model` once; return the mean loss of the batch.

    Args:
        before_update: called with the gradients computed and the weights not yet changed.
    """
    with record_function("forward"):
        optimizer.zero_grad()
        value = batch_loss(model, inputs, targets, compute, loss)
    with record_function("backward"):
        value.backward()
    before_update()
    with record_function("optimizer"):
        optimizer.step()
    return value.detach()


def batch_loss(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    compute: Compute,
    loss: Loss = functional.cross_entropy,
) -> torch.Tensor:
    """Return the loss of a batch, from outputs in float32 or wider.

    Args:
        inputs: a tensor, a tuple of arguments, or a dictionary of keyword arguments.
    """
    inputs = inputs_for(model, inputs)
    with compute.autocast():
        outputs = call_network(model, inputs)
    return loss(tree_map_only(torch.Tensor, _exact, outputs), targets)


def _exact(output: torch.Tensor) -> torch.Tensor:
    return output.to(torch.promote_types(output.dtype, torch.float32))


def time_step(
    arch: Architecture, widths: Sequence[int], batch_size: int, compute: Compute
) -> float:
    """Train a network for up to three steps on random images; return the seconds of the fastest.

    Raises:
        OutOfMemoryError: if a batch does not fit the device.
    """
    device, seconds = compute.device, list[float]()
    with (
        explain_out_of_memory(device, batch_size),
        compute.computing(),
        use_seed(0, device),
        keep_memory(device),
    ):
        model = place(arch.build(widths), device, arch.layout)
        images = torch.rand(batch_size, *arch.input_shape, device=device)
        labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
        optimizer = sgd(model, lr=0.001, momentum=0.9, weight_decay=0.0)
        with fast_kernels(model):
            while len(seconds) < _TIMED and sum(seconds) < _ENOUGH_SECONDS:
                began = time.perf_counter()
                train_step(model, optimizer, images, labels, compute)
                wait_for(device)
                seconds.append(time.perf_counter() - began)
    return min(seconds)
