"""What else changes in a network with its widths: sizes that modules store, and tied dimensions.

An *adaptation* frees widths that the code of the network would otherwise fix:
- A *number* is an attribute in which a module stores a size (`self.head_dim`), also inside of a
  dictionary (`self.config["heads"]`), of an object (`self.config.heads`), of a list
  (`self.shape[0]`) or of these in each other. It gets the new size.
- A *tie* joins two dimensions that must shrink together, such as the rows and columns of a square
  weight, or what one attribute stores the size of. It may also join all rows of a dimension that is
  split into parts of different sizes.

search/search.py says which code needs them.

A *container* is a mapping, a named tuple, a tuple of pairs as in layers of einops, a list, or an
object of the user's own class. Containers may be nested.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from types import MemberDescriptorType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.tracing.groups import Dimension
from nsopt.tracing.labels import Labels, Trace, TraceError, select_atoms
from nsopt.tracing.originals import copy_shallow, original_weight, tensors_of

# length of a list of equal sizes, indices in a list of others, or the key of a pair
Inside = int | tuple[int, ...] | str | None
Keys = tuple[str | int, ...]  # of containers inside of each other, the outermost first
_MOST = 16  # items of a list that are looked at
_TABLE = 1000  # entries of a mapping that is no configuration, such as a vocabulary
Size = tuple[str, int, Inside, Keys]  # an attribute, a size in it, and where
_DEPTH = 2  # containers inside of the one that an attribute stores
_SIZES = re.compile(
    "(features|channels|planes|filters|hidden|hidden_size|embed|chs|chans|dims?|d_model|width|^c)$"
)

Slot = tuple[str, Keys, Inside]  # an attribute, and the keys in it
Side = tuple[str, int]  # a tensor and an axis
Tie = tuple[Side, Side]
Alike = tuple[str, str, str, str]  # path and name of an attribute, and of one of a layer
Less = tuple[tuple[str, int, int], ...]  # tensors, axes, and how often their sizes count


def is_size(value: object) -> bool:
    """Return whether a value is an integer of Python or NumPy, and no truth value."""
    return type(value) is int or isinstance(value, np.integer)


def is_configuration(value: Any) -> bool:
    """Return whether a value is an object of a class of the user, such as a dataclass."""
    if _is_named_tuple(value):
        return True
    if callable(value) or isinstance(value, Tensor | Enum | Mapping | list | tuple):
        return False
    return isinstance(getattr(value, "__dict__", None), dict) or hasattr(type(value), "__slots__")


def read_size(value: Any) -> tuple[int, Inside]:
    """Return the one size in an attribute, else 0; and the length of a list of equal ones."""
    if is_size(value):
        return int(value), None
    if isinstance(value, list | tuple) and all(map(is_size, value)) and not _is_named_tuple(value):
        return (int(value[0]), len(value)) if len(set(value)) == 1 else (0, None)
    return 0, None


def read_sizes(value: Any) -> list[tuple[int, Inside]]:
    """Read the one size, or those of a container or of a list of different sizes, as in a shape."""
    size, inside = read_size(value)
    if size:
        return [(size, inside)]
    if type(value) in (list, tuple, torch.Size) and all(map(is_size, value)):
        sizes = [int(n) for n in value[:_MOST]]
        return [(n, tuple(i for i, m in enumerate(sizes) if m == n)) for n in dict.fromkeys(sizes)]
    return [(int(n), key) for key, n in read_fields(value).items() if is_size(n)]


def walk_containers(value: Any, depth: int = _DEPTH) -> Iterator[tuple[Keys, Any]]:
    """Yield the containers inside of another one, after the keys that lead to them."""
    if type(value).__module__.startswith("torch."):
        return
    for key, held in _read_items(value).items():
        if isinstance(held, Mapping | list | tuple) or is_configuration(held):
            yield (key,), held
            if depth > 1:
                yield from (
                    ((key, *keys), inner) for keys, inner in walk_containers(held, depth - 1)
                )


def replace_size(value: Any, keys: Keys, inside: Inside, size: int) -> Any:
    """Return a copy of what an attribute stores, with another size; see `Number`.

    Raises TraceError if a class refuses that.
    """
    if isinstance(inside, str):
        keys, inside = (*keys, inside), None
    try:
        return _replace(value, keys, inside, size)
    except Exception:  # the user's code may raise anything
        # No other error is worse.
        raise TraceError(f"no copy can be made of a {type(value).__name__}", step=0) from None


def read_fields(value: Any) -> dict[str, Any]:
    """Return what a container holds by names; nothing for a list or another value."""
    with suppress(Exception):  # the user's code may raise anything
        if _is_named_tuple(value):
            return dict(zip(value._fields, value, strict=True))
        if isinstance(value, Mapping) and len(value) <= _TABLE:
            return {key: held for key, held in value.items() if isinstance(key, str)}
        if is_configuration(value):
            return _read_attributes(value)
        if type(value) is tuple and all(type(p) is tuple and len(p) == 2 for p in value):
            return {key: held for key, held in value if isinstance(key, str)}
    return {}


def _read_items(value: Any) -> dict[Any, Any]:
    """Return what a container holds by names, and by indices if it is a list or tuple."""
    listed = value[:_MOST] if type(value) in (list, tuple) else ()
    items: dict[Any, Any] = dict(enumerate(listed))
    return items | read_fields(value)


def _read_attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, also in `__slots__`, and of its classes, but none of
    Python's own."""
    stores = [*map(vars, reversed(type(value).__mro__)), getattr(value, "__dict__", {})]
    return {
        name: getattr(value, name, None) if isinstance(held, MemberDescriptorType) else held
        for store in stores
        for name, held in store.items()
        if not name.startswith("__")
    }


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _replace(value: Any, keys: Keys, inside: Inside, size: int) -> Any:
    if keys:
        items = _read_items(value)
        if keys[0] not in items:  # code stores it later
            return value
        return _replace_item(value, keys[0], _replace(items[keys[0]], keys[1:], inside, size))
    if inside is None:
        return type(value)(size) if isinstance(value, np.integer) else size
    indices = range(inside) if isinstance(inside, int) else inside
    return type(value)(
        _replace(n, (), None, size) if i in indices else n for i, n in enumerate(value)
    )


def _replace_item(value: Any, key: Any, held: Any) -> Any:
    """Return a copy of a container that holds something else at a key."""
    if isinstance(value, Mapping):
        made = _copy(value)
        made[key] = held
        return made
    if _is_named_tuple(value):
        return value._replace(**{key: held})
    if isinstance(value, list | tuple):
        items = dict(enumerate(value) if isinstance(key, int) else value) | {key: held}
        return type(value)(items.values() if isinstance(key, int) else items.items())
    made = _copy(value)
    object.__setattr__(made, key, held)  # frozen ones, too
    return made


def _copy(value: Any) -> Any:
    made = copy_shallow(value)
    if made is value or getattr(made, "__dict__", made) is getattr(value, "__dict__", value):
        raise TypeError("its copy is the object itself")
    return made


def list_sizes(template: nn.Module, in_objects: bool = True) -> dict[str, list[Size]]:
    """Return the sizes above 1 that modules store, by path, but not of layers with one weight.

    `in_objects`: also in objects of configuration, and in containers in each other.
    """
    holders = find_holders(template)
    by_path = {
        path: list(_list_sizes(module, path in holders, in_objects))
        for path, module in template.named_modules()
    }
    return {path: sizes for path, sizes in by_path.items() if sizes}


def read_own_sizes(module: nn.Module) -> dict[str, int]:
    """Return the integers above 1 that a module stores itself, by name."""
    return {name: n for name, n in vars(module).items() if is_size(n) and n > 1}


def _list_sizes(module: nn.Module, holds_tensors: bool, in_objects: bool) -> Iterator[Size]:
    """Yield the sizes above 1 in a module; of a layer of PyTorch those that its subclass adds."""
    is_free = isinstance(module, nn.Unflatten) or not is_layer(module)
    names = set(vars(module))
    if not is_free and not (holds_tensors and original_weight(module) is None):
        if type(module).__module__.startswith("torch."):
            return
        layers = [c for c in type(module).__mro__ if c.__module__.startswith("torch.")]
        names -= {name for layer in layers for name in getattr(layer, "__constants__", ())}
        names = {name for name in names if not name.startswith("_")}
    for name, value in vars(module).items():
        if name in names and (in_objects or not is_configuration(value)):
            for keys, held in [((), value), *(walk_containers(value) if in_objects else ())]:
                yield from ((name, n, inside, keys) for n, inside in read_sizes(held) if n > 1)


def is_layer(module: nn.Module) -> bool:
    """Return whether a module is a layer of PyTorch, or a subclass of one."""
    classes = type(module).__mro__
    return any(c.__module__.startswith("torch.") and c is not nn.Module for c in classes)


def find_holders(template: nn.Module) -> set[str]:
    """Return the paths of modules that hold tensors, also in modules inside of them."""
    return {path for name in tensors_of(template) for path in list_holders(name)}


def list_holders(tensor: str) -> list[str]:
    """Return the paths of the module that holds a tensor and of all modules around it."""
    names = tensor.split(".")
    return [".".join(names[:i]) for i in range(len(names))]


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
