"""Find further changes of a network with which more of its widths can change.

A *lift* frees a width that the code of the network would otherwise fix:
- A *number* is an attribute in which a module stores a size (`self.head_dim`). The lift sets it
  to the new size.
- A *tie* is a square weight whose rows and columns must shrink together. Attention is an example:
  its code computes the size of a head from the number of input channels, so a projection must have
  as many outputs as inputs. The lift joins rows and columns.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from nsopt.models.tracing.groups import Dimension, Family
from nsopt.models.tracing.labels import Labels, Trace, select_atoms
from nsopt.models.tracing.originals import original_weight
from nsopt.models.tracing.run import tensors_of

_SIZES = re.compile(
    "(features|channels|planes|filters|hidden|hidden_size|embed|chs|chans|dims?|d_model)$"
)


@dataclass(frozen=True)
class Number:
    """An attribute that stores a size.

    Attributes:
        path: path of the module.
        name: name of the attribute.
        tensor: the parameter or buffer whose size it stores.
        axis: the dimension of this tensor.
        divisor: the attribute is the size of the dimension divided by this.
        parts: length of the attribute if it is a list or tuple of equal sizes, as for `split`; else
            None.
    """

    path: str
    name: str
    tensor: str
    axis: int
    divisor: int
    parts: int | None = None


@dataclass(frozen=True)
class Tie:
    """A weight whose first two dimensions must belong to the same units."""

    tensor: str


@dataclass(frozen=True)
class Lifts:
    """All numbers and ties of a network.

    Attributes:
        numbers: attributes that may have any meaning.
        ties: square weights.
        unread: sizes that `forward` does not read, such as those of norms without parameters. Other
            code may, as `reset_classifier` of timm reads `num_features`.
    """

    numbers: tuple[Number, ...] = ()
    ties: tuple[Tie, ...] = ()
    unread: tuple[Number, ...] = ()

    def __add__(self, other: "Lifts") -> "Lifts":
        numbers = dict.fromkeys((*self.numbers, *other.numbers))
        return replace(
            self, numbers=tuple(numbers), ties=tuple(dict.fromkeys((*self.ties, *other.ties)))
        )

    def join_ties(self, trace: Trace, labels: dict[str, Labels]) -> Trace:
        """Return a copy of the trace in which both sides of every tie are joined."""
        sides = [select_atoms(labels[tie.tensor][:2]) for tie in self.ties]
        edges = [(pair[0], pair[1]) for pair in sides if len(pair) == 2]
        return replace(trace, edges=[*trace.edges, *edges])

    def describe(self, model: nn.Module) -> None:
        """Set the numbers in `model` to the sizes of its tensors."""
        tensors = tensors_of(model) if self.numbers or self.unread else {}
        for number in (*self.unread, *self.numbers):
            module = model.get_submodule(number.path)
            size = tensors[number.tensor].shape[number.axis] // number.divisor
            kind = type(getattr(module, number.name))
            value = size if number.parts is None else kind([size] * number.parts)
            setattr(module, number.name, value)


def find_norms(
    template: nn.Module, trace: Trace, dimensions: Iterable[Dimension]
) -> Iterator[Number]:
    """Yield the sizes that norms without parameters store, if they belong to one dimension."""
    for path, label in trace.plain_norms.items():
        store = vars(template.get_submodule(path))
        for d in dimensions:
            if np.isin(label, d.atoms).all():
                for name in ("num_features", "num_channels", "normalized_shape", "num_groups"):
                    size, parts = _read_size(store.get(name))
                    follows = name != "num_groups" or path in trace.group_sizes
                    if size and follows and len(d.atoms) % size == 0:
                        yield Number(path, name, d.tensor, d.axis, len(d.atoms) // size, parts)
                break


def find_sizes(template: nn.Module, dimensions: Iterable[Dimension], known: Lifts) -> list[Number]:
    """Return attributes that by their names and values are sizes of the tensors in their modules.

    They follow the last used dimension of this size: `num_features` is the input of the classifier.

    Args:
        template: the traced network.
        dimensions: those whose size can change, in the order of their first use.
        known: lifts that the network already has.
    """
    sized: dict[str, dict[int, Dimension]] = {}
    for dimension in dimensions:
        for path in _list_holders(dimension.tensor):
            sized.setdefault(path, {})[len(dimension.atoms)] = dimension
    taken = {(number.path, number.name) for number in (*known.numbers, *known.unread)}
    return [
        Number(path, name, own[value].tensor, own[value].axis, 1)
        for path, own in sized.items()
        if not _is_layer(module := template.get_submodule(path))
        for name, value in vars(module).items()
        if type(value) is int and value in own and (path, name) not in taken
        if _SIZES.search(name)
    ]


def propose_numbers(
    template: nn.Module, family: Family, groups: Iterable[int], known: Lifts
) -> Iterator[Lifts]:
    """Yield numbers that may store sizes of these groups.

    All modules of a type use an attribute in the same way, so a proposal covers all of them: first
    with all attributes of the type, then with each attribute alone. If an attribute may store the
    size of several tensors, it follows the tensor of the same name in every module.

    Args:
        template: the traced network.
        family: its groups.
        groups: indices of the groups that should shrink.
        known: lifts that the network already has.
    """
    modules = dict(template.named_modules())
    plain = [path for path, module in modules.items() if not tensors_of(module)]
    found = [
        list(_find_numbers(modules, family, group, plain)) for group in range(len(family.groups))
    ]
    followed: dict[type[nn.Module], dict[str, str]] = {}  # by type and attribute, the tensor
    for group in groups:
        for number in found[group]:
            tensors = followed.setdefault(type(modules[number.path]), {})
            tensors.setdefault(number.name, _name_within(number))
    for kind, tensors in followed.items():
        alike = [
            number
            for numbers in found
            for number in numbers
            if type(modules[number.path]) is kind and number not in known.numbers
        ]
        alike.sort(key=lambda number: _name_within(number) != tensors.get(number.name))
        each = [{name} for name in sorted(tensors)] if len(tensors) > 1 else []
        for names in (set(tensors), *each):
            chosen: dict[tuple[str, str], Number] = {}
            for number in alike:
                if number.name in names:
                    chosen.setdefault((number.path, number.name), number)
            if chosen:
                yield Lifts(numbers=tuple(chosen.values()))


def propose_ties(
    template: nn.Module, family: Family, groups: Iterable[int], known: Lifts
) -> Iterator[Lifts]:
    """Yield ties of square weights between one of these groups and another group.

    A proposal covers the weights of one name in one type of module, then all square weights in a
    type of module. The arguments are those of `propose_numbers`.
    """
    modules = dict(template.named_modules())
    own = set(groups)
    square = {
        tensor: sides
        for tensor, sides in _find_square_weights(family)
        if Tie(tensor) not in known.ties
    }

    def kind(tensor: str) -> tuple[type[nn.Module], str]:
        path, _, name = tensor.rpartition(".")
        parent, _, module = path.rpartition(".")
        return type(modules[parent]), f"{module}.{name}"

    kinds = dict.fromkeys(kind(tensor) for tensor, sides in square.items() if own & sides)
    for each in kinds:
        yield Lifts(ties=tuple(Tie(tensor) for tensor in square if kind(tensor) == each))
    for user in dict.fromkeys(user for user, _ in kinds):
        yield Lifts(ties=tuple(Tie(tensor) for tensor in square if kind(tensor)[0] is user))


def _find_numbers(
    modules: dict[str, nn.Module], family: Family, group: int, plain: Iterable[str]
) -> Iterator[Number]:
    """Yield attributes equal to a group's width, or to the size of one of its dimensions.

    It searches modules that hold tensors of the group, the modules around them, and those at the
    paths `plain`, which hold no tensors; but no layers of PyTorch: resize.py sets their sizes.
    """
    width = family.groups[group].width
    sized = [
        family.dimensions[d]
        for d in family.groups[group].per_dimension
        if _is_alone(family, d, group)
    ]
    around = (path for d in sized for path in _list_holders(d.tensor))
    for path in dict.fromkeys((*around, *plain)) if sized else ():
        has_weight = path in plain or original_weight(modules[path]) is not None
        if has_weight and _is_layer(modules[path]):
            continue
        for name, value in vars(modules[path]).items():
            size, parts = _read_size(value)
            exact = [d for d in sized if len(d.atoms) == size]
            if size > 1 and (exact or size == width):
                dimension = (exact or sized)[0]
                divisor = len(dimension.atoms) // size
                yield Number(path, name, dimension.tensor, dimension.axis, divisor, parts)


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module is a layer of PyTorch, or a subclass of one."""
    classes = type(module).__mro__
    return any(c.__module__.startswith("torch.") and c is not nn.Module for c in classes)


def _read_size(value: object) -> tuple[int, int | None]:
    """Read the size in an attribute.

    Returns:
        The size, or 0 if the attribute stores none, and the length of a list of equal sizes. Tuples
        count as lists.
    """
    if type(value) is int:
        return value, None
    if isinstance(value, list | tuple) and all(type(each) is int for each in value):
        return (value[0], len(value)) if len(set(value)) == 1 else (0, None)
    return 0, None


def _name_within(number: Number) -> str:
    """Return the name of a number's tensor, relative to the module that stores the number."""
    return number.tensor.removeprefix(f"{number.path}.")


def _is_alone(family: Family, dimension: int, group: int) -> bool:
    """Return whether all indices of a dimension belong to this group."""
    factors = family.factors[dimension]
    return bool(factors[group] and (factors > 0).sum() == 1 and not family.constants[dimension])


def _list_holders(tensor: str) -> list[str]:
    """Return the paths of the module that holds a tensor and of all modules around it."""
    names = tensor.split(".")
    return [".".join(names[:i]) for i in range(len(names))]


def _find_square_weights(family: Family) -> Iterator[tuple[str, set[int]]]:
    """Yield tensors whose first two dimensions are equal in size but differ in groups.

    Each comes with the indices of these groups.
    """
    by_name: dict[str, dict[int, Dimension]] = {}
    groups = family.group_of_unit
    for dimension in family.dimensions:
        by_name.setdefault(dimension.tensor, {})[dimension.axis] = dimension
    for tensor, axes in by_name.items():
        if 0 in axes and 1 in axes and len(axes[0].atoms) == len(axes[1].atoms):
            sides = [set(groups[family.units.of_atom[axes[a].atoms]].tolist()) for a in (0, 1)]
            if sides[0] != sides[1] and -1 not in sides[0] | sides[1]:
                yield tensor, sides[0] | sides[1]
