"""Further changes of a network with which more of its widths can change.

A *lift* frees a width that the code of the network would otherwise fix:
- A *number* is an attribute in which a module stores a size (`self.head_dim`), also inside of a
  dictionary (`self.config["heads"]`), of an object (`self.config.heads`), of a list
  (`self.shape[0]`) or of these in each other. The lift sets it to the new size.
- A *tie* joins two dimensions that must shrink together. They are the rows and columns of a weight
  of one square, or of more beside each other, if code computes the size of a head from the number
  of input channels, so that a projection must have as many outputs as inputs. Or one attribute
  stores the size of both, as that of the heads of keys and values. A tie may also join all rows of
  a dimension that is split into parts of different sizes, such as fewer heads of keys than of
  queries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from nsopt.tracing.labels import Labels, Trace, select_atoms
from nsopt.tracing.run import tensors_of
from nsopt.tracing.stored import Inside, Keys, read_fields, replace_size

Place = tuple[str, Keys, Inside]  # an attribute, and the keys in it
Side = tuple[str, int]  # a tensor and an axis
Tie = tuple[Side, Side]
Alike = tuple[str, str, str, str]  # path and name of an attribute, and of one of a layer
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
        keys: if the attribute stores containers in each other, those that lead to the one with the
            size.
    """

    path: str
    name: str
    tensor: str
    axis: int
    divisor: int
    inside: Inside = None
    less: Less = ()
    change: int = 0
    keys: Keys = ()

    @property
    def place(self) -> Place:
        """Where the size is: modules of a type use the same place alike."""
        return self.name, self.keys, self.inside if isinstance(self.inside, str | tuple) else None

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
        is_twice = type(module).__module__.startswith("einops.")
        for name, value in list(vars(module).items()):
            if name == self.name or (is_twice and self.inside in read_fields(value)):
                setattr(module, name, replace_size(value, self.keys, self.inside, size))


@dataclass(frozen=True)
class Lifts:
    """All numbers and ties of a network.

    Attributes:
        numbers: attributes that may have any meaning.
        ties: pairs of dimensions that must belong to the same units, index by index.
        parts: indices of the splits whose parts are such rows (`Trace.parts`).
        followers: ties whose second side has several indices in a row for each of the first.
        unread: sizes of norms without parameters, which `forward` does not read.
        alike: other sizes that `forward` does not read, and layers that store the same. Other code
            may, as `reset_classifier` of timm reads `num_features`.
    """

    numbers: tuple[Number, ...] = ()
    ties: tuple[Tie, ...] = ()
    parts: frozenset[int] = frozenset()
    followers: tuple[Tie, ...] = ()
    unread: tuple[Number, ...] = ()
    alike: tuple[Alike, ...] = ()

    def __add__(self, other: "Lifts") -> "Lifts":
        numbers = tuple(dict.fromkeys((*self.numbers, *other.numbers)))
        ties = tuple(dict.fromkeys((*self.ties, *other.ties)))
        followers = tuple(dict.fromkeys((*self.followers, *other.followers)))
        parts = self.parts | other.parts
        return replace(self, numbers=numbers, ties=ties, parts=parts, followers=followers)

    @property
    def joins(self) -> tuple[Any, ...]:
        """All that joins units."""
        return self.ties, self.parts, self.followers

    def join_ties(self, trace: Trace, labels: dict[str, Labels]) -> Trace:
        """Return a copy of the trace in which both sides of every tie, and rows, are joined."""
        ties, followers = (
            [p for p in (select_atoms(labels[n][a] for n, a in tie) for tie in ties) if len(p) == 2]
            for ties in (self.ties, self.followers)
        )
        pairs = [sorted(pair, key=len) for pair in ties]
        edges = [(np.resize(few, len(many)), many) for few, many in pairs]
        edges += [(np.repeat(one, len(many) // len(one)), many) for one, many in followers]
        edges += [(trace.parts[i][0], row) for i in sorted(self.parts) for row in trace.parts[i]]
        return replace(trace, edges=[*trace.edges, *edges])

    def describe(self, model: nn.Module) -> None:
        """Set the numbers in `model` to the sizes of its tensors."""
        tensors = tensors_of(model) if self.numbers or self.unread else {}
        for number in (*self.unread, *self.numbers):
            number.write(model, number.read(tensors))
