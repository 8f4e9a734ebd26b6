"""What else changes in a network with its widths: sizes that modules store, and tied dimensions.

An *adaptation* frees widths that the code of the network would otherwise fix:
- A *number* is an attribute in which a module stores a size (`self.head_dim`), also inside of a
  dictionary (`self.config["heads"]`), of an object (`self.config.heads`), of a list
  (`self.shape[0]`) or of these in each other. It gets the new size.
- A *tie* joins two dimensions that must shrink together, such as the rows and columns of a square
  weight, or what one attribute stores the size of. It may also join all rows of a dimension that is
  split into parts of different sizes.

search/kinds.py says which code needs them.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from nsopt.tracing.groups import Dimension
from nsopt.tracing.labels import Labels, Trace, select_atoms
from nsopt.tracing.originals import tensors_of
from nsopt.tracing.stored import (
    Inside,
    Keys,
    is_layer,
    read_fields,
    read_own_sizes,
    read_size,
    replace_size,
)

_SIZES = re.compile(
    "(features|channels|planes|filters|hidden|hidden_size|embed|chs|chans|dims?|d_model|width|^c)$"
)

Slot = tuple[str, Keys, Inside]  # an attribute, and the keys in it
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
            indices of the size if the others differ, as in a shape; the key of the size if it is a
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
    def slot(self) -> Slot:
        """Where the size is: modules of a type use the same slot alike."""
        return self.name, self.keys, self.inside if isinstance(self.inside, str | tuple) else None

    @property
    def site(self) -> tuple[str, Slot]:
        """Its module and slot."""
        return self.path, self.slot

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
class Adaptation:
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

    def __add__(self, other: "Adaptation") -> "Adaptation":
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


def find_norms(
    template: nn.Module, trace: Trace, dimensions: Iterable[Dimension]
) -> Iterator[Number]:
    """Yield the sizes that norms without parameters store, if they belong to one dimension."""
    for path, label in trace.plain_norms.items():
        store = vars(template.get_submodule(path))
        for d in dimensions:
            if np.isin(label, d.atoms).all():
                for name in ("num_features", "num_channels", "normalized_shape", "num_groups"):
                    size, inside = read_size(store.get(name))
                    follows = name != "num_groups" or path in trace.group_sizes
                    if size and follows and len(d.atoms) % size == 0:
                        yield Number(path, name, d.tensor, d.axis, len(d.atoms) // size, inside)
                break


def find_alike(template: nn.Module, excluded: Container[tuple[str, str]]) -> list[Alike]:
    """Return attributes of modules that equal one of a layer of theirs, but none `excluded`.

    Both have the same name, or are equal in all modules of the type, which have several sizes, or
    the attribute has the name of a size. Of several layers, inputs follow the first and others the
    last: `num_features` is the input of the classifier.
    """
    kinds: dict[type[nn.Module], dict[str, dict[tuple[str, str], int]]] = {}
    stored: dict[str, dict[str, int]] = {}
    for path, module in template.named_modules():
        if not is_layer(module) and (sizes := read_own_sizes(module)):
            layers = [m for m in module.named_modules(prefix=path) if is_layer(m[1])]
            inner = {p.removeprefix(path): read_own_sizes(layer) for p, layer in layers}
            within = {(p, name): n for p, held in inner.items() for name, n in held.items()}
            kinds.setdefault(type(module), {})[path] = within
            stored[path] = sizes
    found = []
    for members in kinds.values():
        for path, name in [(p, name) for p in members for name in stored[p]]:
            held = {other: stored[other].get(name) for other in members}
            equal = [key for key, size in members[path].items() if size == held[path]]
            named = [key for key in equal if key[1] == name]
            shared = [k for k in equal if all(members[p].get(k) == held[p] for p in members)]
            several = shared if len(set(held.values())) > 1 else []
            keys = [key for key in named if key in several] or named or several
            keys = keys or (equal if _SIZES.search(name) else [])
            if keys and (path, name) not in excluded:
                layer, source = keys[0 if name.startswith("in") else -1]
                found.append((path, name, f"{path}{layer}".lstrip("."), source))
    return found
