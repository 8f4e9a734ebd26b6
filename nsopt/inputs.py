"""Inputs of a network: a tensor, a tuple of arguments, or keyword arguments; and its outputs.

Also checksums of their tensors.
"""

import io
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map

from nsopt.errors import NsoptError

_CHANNELS = 4  # the most of images of several sizes in a list; more rows are examples
_PLAIN = {int, float, bool, str, NoneType}
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
    """Return the tensors in nested arguments or results, faster than `tree_leaves` alone."""
    kind = type(tree)
    if kind in _PLAIN:
        return []
    if isinstance(tree, Tensor):
        return [tree]
    if kind in (tuple, list):
        return [tensor for item in tree if type(item) not in _PLAIN for tensor in tensors_in(item)]
    if kind is dict:
        return tensors_in(list(tree.values()))
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def check_numbers(tensors: Iterable[Tensor], what: str) -> None:
    """Raise NsoptError for tensors without values, or in a form of which nsopt reads no numbers."""
    for tensor in tensors:
        kind = "on the meta device, without values" if tensor.is_meta else ""
        kind = "nested" if tensor.is_nested else kind
        kind = "quantised" if tensor.is_quantized else kind
        kind = "in the layout of MKL-DNN" if tensor.is_mkldnn else kind
        if kind:
            raise NsoptError(f"{what} is {kind}: pass numbers, such as torch.zeros(2, 3, 32, 32)")


def identify_memory(tensor: Tensor) -> int:
    """Return a number that identifies the memory of a tensor and its views."""
    return int(tensor.untyped_storage()._cdata)


def _is_list_of_examples(nest: Any) -> bool:
    """Return whether a list has an item for each example, such as an image, not a batch for each
    part of the input: then all have as many rows, and are maps or differ in other sizes.
    """
    if not isinstance(nest, list) or not nest:
        return False
    rows = {len(item) if isinstance(item, Tensor) and item.ndim else 0 for item in nest}
    if len(rows) > 1 or rows == {0}:
        return True
    shapes, dimensions = {item.shape for item in nest}, max(item.ndim for item in nest)
    if dimensions < 3:
        return len(shapes) == 1
    is_small = max(rows) <= _CHANNELS
    if dimensions == 3:
        return is_small or len(shapes) == 1
    return is_small and (len(shapes) == 1 or rows == {1})


def _find_examples(inputs: Any) -> list[Any]:
    """Return what has examples: tensors with dimensions, and lists with an item for each."""
    leaves = tree_leaves(split_arguments(inputs), is_leaf=_is_list_of_examples)
    return [x for x in leaves if isinstance(x, list) or (isinstance(x, Tensor) and x.ndim)]


def lists_examples(inputs: Any) -> bool:
    """Return whether a list among the inputs has an item for each example."""
    return any(isinstance(leaf, list) for leaf in _find_examples(inputs))


def count_examples(inputs: Any) -> int:
    """Return the batch size: the length of the first list of examples, or the first dimension of
    the first tensor that has one.

    Raises:
        NsoptError: if no tensor has dimensions, or the batch is empty.
    """
    found = _find_examples(inputs)
    if found and not len(found[0]):
        raise NsoptError("a batch has no examples: leave out empty batches")
    if found:
        return len(found[0])
    raise NsoptError("the inputs of the network need a tensor whose first dimension is the batch")


def list_shapes(inputs: Any) -> list[tuple[int, ...]]:
    """Return the shapes of all tensors of a batch."""
    return [tuple(tensor.shape) for tensor in tensors_in(inputs)]


def resize_batch(inputs: Any, size: int) -> Any:
    """Return inputs of `size` examples: the first ones, repeated as often as necessary.

    Sparse tensors, and those whose first dimension is not the batch, stay.
    """
    count = count_examples(inputs)
    rows = [row % count for row in range(size)]

    def is_batch(nest: Any) -> bool:
        if isinstance(nest, Tensor):
            return nest.ndim > 0 and nest.layout == torch.strided and len(nest) == count
        return _is_list_of_examples(nest) and len(nest) == count

    def resize(nest: Any) -> Any:
        if not is_batch(nest):
            return nest
        return nest[rows] if isinstance(nest, Tensor) else [nest[row] for row in rows]

    arguments = tuple(inputs) if isinstance(inputs, list) else inputs
    return tree_map(resize, arguments, is_leaf=is_batch)


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


def checksum_of(tensors: Iterable[Tensor]) -> int:
    """Return a checksum (CRC-32) of the numbers in tensors, in this order."""
    content = 0
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            torch.save(tensor.detach().cpu(), file := io.BytesIO())
            content = zlib.crc32(file.getvalue(), content)
            continue
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        content = zlib.crc32(values.numpy().data, content)
    return content
