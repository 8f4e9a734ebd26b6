"""Further changes of a network with which more of its widths can change.

A *lift* frees a width that the code of the network would otherwise fix:
- A *number* is an attribute in which a module stores a size (`self.head_dim`), also inside of a
  dictionary (`self.config["heads"]`), of an object (`self.config.heads`) or of a list
  (`self.shape[0]`). The lift sets it to the new size.
- A *tie* joins two dimensions that must shrink together. They are the rows and columns of a weight
  of one square, or of more beside each other, if code computes the size of a head from the number
  of input channels, so that a projection must have as many outputs as inputs. Or one attribute
  stores the size of both, as that of the heads of keys and values. A tie may also join all rows of
  a dimension that is split into parts of different sizes, such as fewer heads of keys than of
  queries.
"""

import copy
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from torch import Tensor, nn

from nsopt.models.tracing.labels import Labels, Trace, TraceError, select_atoms
from nsopt.models.tracing.run import tensors_of

# length of a list of equal sizes, places in a list of others, or the key of a pair
Inside = int | tuple[int, ...] | str | None
Place = tuple[str, Inside]  # an attribute, and the key in it
Side = tuple[str, int]  # a tensor and an axis
Tie = tuple[Side, Side]
Less = tuple[tuple[str, int, int], ...]  # tensors, axes, and how often their sizes count


@dataclass(frozen=True)
class Number:
    """An attribute that stores a size.

    Attributes:
        path: path of the module.
        name: name of the attribute.
        tensor: the parameter or buffer whose size it stores.
        axis: the dimension of this tensor.
        less: other dimensions, whose sizes are first subtracted: queries and keys are what the
            values leave of a projection.
        divisor: the attribute is the rest divided by this.
        change: added to it, to see what a wrong size does.
        inside: length of the attribute if it is a list or tuple of equal sizes, as for `split`; the
            places of the size if the others differ, as in a shape; the key of the size if it is a
            dictionary, an object, or a tuple of pairs, as in layers of einops; else None.
    """

    path: str
    name: str
    tensor: str
    axis: int
    divisor: int
    inside: Inside = None
    less: Less = ()
    change: int = 0

    @property
    def place(self) -> Place:
        """Where the size is: modules of a type use the same place alike."""
        return self.name, self.inside if isinstance(self.inside, str | tuple) else None

    @property
    def site(self) -> tuple[str, Place]:
        """Its module and place."""
        return self.path, self.place

    def read(self, tensors: Mapping[str, Tensor]) -> int:
        """Return the size in a network with these tensors."""
        rest = sum(tensors[name].shape[axis] * times for name, axis, times in self.less)
        return (tensors[self.tensor].shape[self.axis] - rest) // self.divisor + self.change

    def write(self, model: nn.Module, size: int) -> None:
        """Set the size; in layers of einops wherever they have its key: they store it twice."""
        module = model.get_submodule(self.path)
        if isinstance(self.inside, str):
            is_twice = type(module).__module__.startswith("einops.")
            for name, value in list(vars(module).items()):
                if (is_twice or name == self.name) and self.inside in read_pairs(value):
                    setattr(module, name, _replace_pair(value, self.inside, size))
            return
        value = getattr(module, self.name)
        if isinstance(self.inside, tuple):
            new = type(value)(size if i in self.inside else n for i, n in enumerate(value))
        else:
            new = size if self.inside is None else type(value)([size] * self.inside)
        setattr(module, self.name, new)


@dataclass(frozen=True)
class Lifts:
    """All numbers and ties of a network.

    Attributes:
        numbers: attributes that may have any meaning.
        ties: pairs of dimensions that must belong to the same units, index by index.
        parts: indices of the splits whose parts are such rows (`Trace.parts`).
        unread: sizes that `forward` does not read, such as those of norms without parameters. Other
            code may, as `reset_classifier` of timm reads `num_features`.
    """

    numbers: tuple[Number, ...] = ()
    ties: tuple[Tie, ...] = ()
    parts: frozenset[int] = frozenset()
    unread: tuple[Number, ...] = ()

    def __add__(self, other: "Lifts") -> "Lifts":
        numbers = tuple(dict.fromkeys((*self.numbers, *other.numbers)))
        ties = tuple(dict.fromkeys((*self.ties, *other.ties)))
        return replace(self, numbers=numbers, ties=ties, parts=self.parts | other.parts)

    def join_ties(self, trace: Trace, labels: dict[str, Labels]) -> Trace:
        """Return a copy of the trace in which both sides of every tie, and rows, are joined."""
        sides = [select_atoms(labels[name][axis] for name, axis in tie) for tie in self.ties]
        pairs = [sorted(pair, key=len) for pair in sides if len(pair) == 2]
        edges = [(np.resize(few, len(many)), many) for few, many in pairs]
        edges += [(trace.parts[i][0], row) for i in sorted(self.parts) for row in trace.parts[i]]
        return replace(trace, edges=[*trace.edges, *edges])

    def describe(self, model: nn.Module) -> None:
        """Set the numbers in `model` to the sizes of its tensors."""
        tensors = tensors_of(model) if self.numbers or self.unread else {}
        for number in (*self.unread, *self.numbers):
            number.write(model, number.read(tensors))


def is_configuration(value: Any) -> bool:
    """Return whether a value is an object of a class of the user, such as a dataclass."""
    if callable(value) or isinstance(value, Tensor | Enum | dict | list | tuple):
        return False
    return isinstance(getattr(value, "__dict__", None), dict)


def _replace_pair(value: Any, key: str, size: int) -> Any:
    """Return a copy of a dictionary, object or tuple of pairs with another size.

    Raises TraceError if its class refuses that.
    """
    try:
        if is_configuration(value):
            made = copy.copy(value)
            if made is value:
                raise TypeError("its copy is the object itself")
            vars(made)[key] = size  # frozen ones, too
            return made
        pairs = {**dict(value), key: size}
        return type(value)(pairs if isinstance(value, dict) else pairs.items())
    except Exception:  # the user's code may raise anything
        # No other error is worse.
        raise TraceError(f"no copy can be made of a {type(value).__name__}", step=0) from None


def read_pairs(value: Any) -> dict[str, int]:
    """Return the sizes of a dictionary, object or tuple of pairs, by their names; else none."""
    if is_configuration(value):
        value = dict(ChainMap(*map(dict, map(vars, (value, *type(value).__mro__)))))
    if isinstance(value, dict):
        value = tuple(value.items())
    is_pairs = type(value) is tuple and all(type(p) is tuple and len(p) == 2 for p in value)
    pairs = value if is_pairs else ()
    return {key: size for key, size in pairs if isinstance(key, str) and type(size) is int}
