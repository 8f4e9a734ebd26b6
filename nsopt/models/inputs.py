"""Inputs of a network: a tensor, a tuple of arguments, or keyword arguments; and its outputs."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map_only

from nsopt.errors import NsoptError

_NUMBERS = (int, float, complex, str, bytes, NoneType, np.ndarray, np.generic)


def call_network(model: nn.Module, inputs: Any) -> Any:
    """Return the outputs of a network."""
    args, keywords = split_arguments(inputs)
    return model(*args, **keywords)


def split_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments and the keyword arguments of a call with `inputs`."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors in nested arguments or results."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def identify_memory(tensor: Tensor) -> int:
    """Return a number that identifies the memory of a tensor and its views."""
    return int(tensor.untyped_storage()._cdata)


def count_examples(inputs: Any) -> int:
    """Return the batch size: the first dimension of the first tensor that has one.

    Raises:
        NsoptError: if no tensor has dimensions.
    """
    for tensor in tensors_in(inputs):
        if tensor.ndim:
            return len(tensor)
    raise NsoptError("the inputs of the network need a tensor whose first dimension is the batch")


def list_shapes(inputs: Any) -> list[tuple[int, ...]]:
    """Return the shapes of all tensors of a batch."""
    return [tuple(tensor.shape) for tensor in tensors_in(inputs)]


def resize_batch(inputs: Any, size: int) -> Any:
    """Return inputs of `size` examples: the first ones, repeated as often as necessary.

    Tensors whose first dimension is not the batch stay.
    """
    count = count_examples(inputs)

    def resize(tensor: Tensor) -> Tensor:
        if not tensor.ndim or len(tensor) != count:
            return tensor
        return tensor.repeat(-(-size // count), *[1] * (tensor.ndim - 1))[:size]

    return tree_map_only(Tensor, resize, inputs)


def find_outputs(result: Any) -> tuple[list[Tensor], list[str]]:
    """Return the tensors in an output, and the kinds of objects in it that are ignored.

    Dataclasses, dictionaries and distributions are opened, in addition to tuples and lists.
    """
    tensors: list[Tensor] = []
    ignored: list[str] = []
    for leaf in tree_leaves(result):
        inner: list[Any] | None = None
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
        elif is_dataclass(leaf):
            inner = [getattr(leaf, field.name) for field in fields(leaf)]
        elif isinstance(leaf, Mapping):
            inner = list(leaf.values())
        elif isinstance(leaf, list | tuple | set):
            inner = list(leaf)
        elif isinstance(leaf, Distribution):
            inner = list(vars(leaf).values())
        elif not isinstance(leaf, _NUMBERS):
            ignored.append(type(leaf).__name__)
        if inner is not None:
            contents = find_outputs(inner)
            tensors, ignored = tensors + contents[0], ignored + contents[1]
    return tensors, ignored
