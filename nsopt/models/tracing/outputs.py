"""Find the tensors in what `forward` returns."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves

_NUMBERS = (int, float, complex, str, bytes, NoneType, np.ndarray, np.generic)


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
