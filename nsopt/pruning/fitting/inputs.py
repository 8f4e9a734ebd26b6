"""Batches of inputs without targets, from whatever a user has."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nsopt.compute.device import explain_out_of_memory
from nsopt.errors import NsoptError, short_reason
from nsopt.inputs import call_network, check_numbers, count_examples, tensors_in
from nsopt.models.layout import inputs_for

FEWEST, _MOST = 16, 1024  # examples
_PAIR = 2


class Inputs:
    """Batches of inputs, in memory, on the CPU: at most 1,024 examples, rounded up to a batch.

    Args:
        batches: a tensor of examples, or batches: tensors, tuples of arguments, dicts of keyword
            arguments, or pairs of one of these and targets, which are ignored.
        arguments: how many arguments the network takes; it distinguishes two arguments from a pair
            of an input and its target.
        batch_size: of batches, where `batches` is a tensor.

    Raises:
        NsoptError: for fewer than 16 examples, for objects that are not batches, and for numbers
            that are not finite.
    """

    def __init__(self, batches: Any, arguments: int = 1, batch_size: int = 32) -> None:
        if isinstance(batches, Tensor) and batches.ndim:
            batches = batches[:_MOST].split(batch_size)
        if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
            raise NsoptError("the inputs must be a tensor of examples, or a loader of batches")
        self.batches: list[Any] = []
        examples = 0
        for batch in batches:
            if examples >= _MOST:
                break
            read = _read(batch, arguments)
            check_numbers(tensors_in(read), f"batch {len(self.batches)} of the inputs")
            inputs = tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), read)
            _check(inputs, len(self.batches))
            self.batches.append(inputs)
            examples += count_examples(inputs)
        if examples < FEWEST:
            raise NsoptError(f"give at least {FEWEST} inputs, got {examples}")

    def __len__(self) -> int:
        return len(self.batches)

    def call(self, model: nn.Module, number: int) -> Callable[[], Any]:
        """Return a function that runs `model` on a batch, on the device of its weights.

        The function raises NsoptError if the network does not run.
        """
        device = next(model.parameters()).device

        def run() -> Any:
            inputs = tree_map_only(Tensor, lambda t: t.to(device), self.batches[number])
            inputs = inputs_for(model, inputs)
            try:
                with explain_out_of_memory(device, None):
                    return call_network(model, inputs)
            except NsoptError:
                raise
            except Exception as error:
                raise NsoptError(
                    f"the network does not run on these inputs ({short_reason(error)}): give what "
                    "its forward pass takes"
                ) from error

        return run


def count_arguments(model: nn.Module) -> int:
    """Return how many arguments the forward pass of a network needs, at least one."""
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    return max(1, len(needed))


def _read(batch: Any, arguments: int) -> Any:
    if isinstance(batch, Tensor | Mapping):
        return batch
    if isinstance(batch, tuple) and len(batch) == 1 and isinstance(batch[0], list):
        return batch
    if not isinstance(batch, Sequence) or not len(batch):
        raise NsoptError(
            "a batch must be a tensor, a tuple of arguments, a dict of keyword arguments, or a "
            f"pair of one of these and targets, not {type(batch).__name__}"
        )
    if len(batch) == _PAIR != arguments or not isinstance(batch[0], Tensor):
        inputs = batch[0]
        return tuple(inputs) if isinstance(inputs, list) else inputs
    return tuple(batch[:arguments])


def _check(inputs: Any, number: int) -> None:
    for tensor in tensors_in(inputs):
        if tensor.layout != torch.strided:
            raise NsoptError(f"batch {number} of the inputs is sparse: give dense tensors")
        if not tensor.isfinite().all():
            raise NsoptError(
                f"batch {number} of the inputs contains NaN or infinite numbers: remove them"
            )
