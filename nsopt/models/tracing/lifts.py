"""What has to change beside the tensors of a network, so that more of its widths can.

A *number* is an attribute of a module in which its code keeps a size (`self.head_dim`): it follows
that size. A *tie* joins both sides of a square weight: heads split what they project into equal
parts of the stream's channels, so that both have to shrink alike.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import nn

from nsopt.models.tracing.groups import Dimension, Family
from nsopt.models.tracing.labels import Labels, Trace, arrays
from nsopt.models.tracing.run import tensors_of


@dataclass(frozen=True)
class Number:
    """The attribute `name` of the module at `path` is the size of a dimension over `divisor`."""

    path: str
    name: str
    tensor: str
    axis: int
    divisor: int


@dataclass(frozen=True)
class Tie:
    """The first two dimensions of a tensor are the same channels."""

    tensor: str


@dataclass(frozen=True)
class Lifts:
    """All numbers and ties of a network."""

    numbers: tuple[Number, ...] = ()
    ties: tuple[Tie, ...] = ()

    def __add__(self, other: "Lifts") -> "Lifts":
        numbers = dict.fromkeys((*self.numbers, *other.numbers))
        return Lifts(tuple(numbers), tuple(dict.fromkeys((*self.ties, *other.ties))))

    def joined(self, trace: Trace, labels: dict[str, Labels]) -> Trace:
        """The trace with the ties. What lifts is in no other tensor, and may be part of a
        calculation: units that it concerns are inexact."""
        sides = [arrays(labels[tie.tensor][:2]) for tie in self.ties]
        edges = [(pair[0], pair[1]) for pair in sides if len(pair) == 2]
        followed = arrays(labels[number.tensor][number.axis] for number in self.numbers)
        inexact = [*trace.inexact, *followed, *(one for one, _ in edges)]
        return replace(trace, edges=[*trace.edges, *edges], inexact=inexact)

    def describe(self, model: nn.Module) -> None:
        """Set the numbers to the sizes that the tensors of `model` have."""
        tensors = tensors_of(model) if self.numbers else {}
        for number in self.numbers:
            size = tensors[number.tensor].shape[number.axis]
            setattr(model.get_submodule(number.path), number.name, size // number.divisor)


def numbers_near(
    template: nn.Module, family: Family, groups: Iterable[int], known: Lifts
) -> Iterator[Lifts]:
    """Attributes that may hold a size of these groups: all of a kind of module, then each alone.

    What holds for one module is taken to hold for all of its type: where a number may follow
    several tensors, those of one name.
    """
    modules = dict(template.named_modules())
    found: dict[type[nn.Module], dict[str, str]] = {}
    for group in groups:
        for number in _numbers(modules, family, group):
            followed = found.setdefault(type(modules[number.path]), {})
            followed.setdefault(number.name, _within(number))
    for kind, names in found.items():
        same = [
            number
            for group in range(len(family.groups))
            for number in _numbers(modules, family, group)
            if type(modules[number.path]) is kind and number not in known.numbers
        ]
        alike_first = sorted(same, key=lambda n: _within(n) != names.get(n.name))
        for some in (set(names), *({name} for name in sorted(names) if len(names) > 1)):
            chosen = {(n.path, n.name): n for n in reversed(alike_first) if n.name in some}
            if chosen:
                yield Lifts(numbers=tuple(chosen.values()))


def _within(number: Number) -> str:
    """The name of the tensor that a number follows, within the module that keeps the number."""
    return number.tensor.removeprefix(f"{number.path}.")


def ties_of(
    template: nn.Module, family: Family, groups: Iterable[int], known: Lifts
) -> Iterator[Lifts]:
    """Square weights between one of these groups and another one, with all of their kind; then
    all square weights of the module that uses them."""
    modules = dict(template.named_modules())
    own = set(groups)
    square = {
        tensor: sides for tensor, sides in _square_weights(family) if Tie(tensor) not in known.ties
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


def _numbers(modules: dict[str, nn.Module], family: Family, group: int) -> Iterator[Number]:
    """Integers of modules that use a group which are its width, or the size of its dimensions."""
    alone = [d for d in family.groups[group].per_dimension if _is_alone(family, d, group)]
    width, sized = family.groups[group].width, [family.dimensions[d] for d in alone]
    for path in dict.fromkeys(_parent(dimension.tensor) for dimension in sized):
        for name, value in vars(modules[path]).items():
            if type(value) is not int or value < 2:
                continue
            exact = [d for d in sized if len(d.atoms) == value]
            if exact or value == width:
                follows = (exact or sized)[0]
                yield Number(path, name, follows.tensor, follows.axis, len(follows.atoms) // value)


def _is_alone(family: Family, dimension: int, group: int) -> bool:
    """Whether all of a dimension belongs to one group."""
    factors = family.factors[dimension]
    return bool(factors[group] and (factors > 0).sum() == 1 and not family.constants[dimension])


def _parent(tensor: str) -> str:
    """The path of the module that uses the module of a tensor."""
    return tensor.rpartition(".")[0].rpartition(".")[0]


def _square_weights(family: Family) -> Iterator[tuple[str, set[int]]]:
    """Tensors whose first two dimensions have one size, with the two groups that they belong to."""
    by_name: dict[str, dict[int, Dimension]] = {}
    groups = family.group_of_unit
    for dimension in family.dimensions:
        by_name.setdefault(dimension.tensor, {})[dimension.axis] = dimension
    for tensor, axes in by_name.items():
        if 0 in axes and 1 in axes and len(axes[0].atoms) == len(axes[1].atoms):
            sides = [set(groups[family.units.of_atom[axes[a].atoms]].tolist()) for a in (0, 1)]
            if sides[0] != sides[1] and -1 not in sides[0] | sides[1]:
                yield tensor, sides[0] | sides[1]
