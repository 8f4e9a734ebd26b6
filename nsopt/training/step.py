"""One step of training, for search and training."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.profiler import record_function
from torch.utils._pytree import tree_map

from nsopt.compute.device import Compute
from nsopt.errors import NonFiniteLossError, NsoptError, short_reason
from nsopt.inputs import call_network, tensors_in
from nsopt.models.layout import inputs_for
from nsopt.tasks.supervision import Loss


def sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Return the paper's optimizer, with all parameters in one group."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
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
    if not optimizer.state and not value.isfinite():
        raise NonFiniteLossError(
            f"the loss of the first batch is {value.item()}, before any step: see what the loss "
            "computes from the outputs, and with which weights the network begins"
        )
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

    Raises:
        NonFiniteLossError: if the loss fails for outputs that are NaN, or is not finite because
            the batch is not.
        NsoptError: if no weight requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise NsoptError(
            "no weight of the network requires a gradient, so that none can be trained: call "
            "model.requires_grad_(True)"
        )
    inputs = inputs_for(model, inputs)
    with compute.autocast(), _explain_batch_of_one():
        outputs = call_network(model, inputs)
    outputs = widen(outputs)
    try:
        value = loss(outputs, targets)
    except Exception as error:  # of the user's code
        if not any(output.isnan().any() for output in tensors_in(outputs)):
            raise
        _check_finite(inputs, "inputs")
        raise NonFiniteLossError(
            "the outputs of the network became NaN, which the loss refuses "
            f"({short_reason(error)}): try a smaller learning rate"
        ) from error
    if compute.device.type == "cpu" and not value.isfinite():
        _check_finite(inputs, "inputs")
        _check_finite(targets, "targets")
    return value


@contextmanager
def _explain_batch_of_one() -> Iterator[None]:
    """Explain the error of BatchNorm for a batch that has one number for each channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise NsoptError(
            "BatchNorm cannot train on a batch of a single example: give the DataLoader "
            "drop_last=True, or another batch size"
        ) from None


def _check_finite(values: Any, name: str) -> None:
    """Raise NsoptError if a tensor of a batch holds NaN or infinity."""
    for value in tensors_in(values):
        if not value.isfinite().all():
            raise NonFiniteLossError(
                f"the loss became NaN because the {name} of a batch are NaN or infinite: remove or "
                "repair these examples"
            )


def widen(outputs: Any) -> Any:
    """Return outputs whose floating numbers are of float32 or wider, also inside dataclasses."""

    def widen_leaf(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            return leaf.to(torch.promote_types(leaf.dtype, torch.float32))
        if is_dataclass(leaf) and not isinstance(leaf, type):
            copied = copy.copy(leaf)
            for field in fields(leaf):  # not `replace`, which runs __post_init__ again
                object.__setattr__(copied, field.name, widen(getattr(leaf, field.name)))
            return copied
        return leaf

    return tree_map(widen_leaf, outputs)
