"""Sizes that modules store in attributes, and ties of dimensions, as adaptations."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, product
from typing import NamedTuple

import numpy as np
from torch import nn

from nsopt.tracing.adaptation import (
    Adaptation,
    Less,
    Number,
    Size,
    Slot,
    Tie,
    find_holders,
    list_holders,
    list_sizes,
)
from nsopt.tracing.groups import Family
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.search.probe import catch_error, resize

Candidate = tuple[Number, int]  # and how many times a width it is


class Sizes(NamedTuple):
    """Adaptations with sizes that modules store.

    Attributes:
        alone: those that equal a size, then those that are a multiple of a width, smaller first.
        of_sides: in each of them an attribute has the size of one of several tensors.
        of_neighbours: with ties of rows of neighbouring weights, such as queries and values.
        shared: with ties of all tensors of an attribute's size.
    """

    alone: list[list[Adaptation]]
    of_sides: list[Adaptation]
    of_neighbours: list[Adaptation]
    shared: list[Adaptation]

    def in_order(self) -> list[list[Adaptation]]:
        return [*self.alone, *self[1:]]


def find_sizes(network: TracedNetwork, groups: Iterable[int], in_objects: bool = False) -> Sizes:
    """Return numbers that may store sizes of these groups, the most likely first.

    All modules of a type use an attribute in the same way, so a proposal covers all of them. It has
    all attributes of a type that equal a size, or one, and at last all. A size of what only passes
    through a module with tensors of its own comes alone, or with its other sizes. If an attribute
    may store the size of several tensors, it follows the tensor of the same name in every module,
    or else one that the module holds, or else the last. An attribute that equals a width of these
    groups is no multiple of other widths.

    Args:
        in_objects: see `list_sizes`.
    """
    modules, holders = dict(network.template.named_modules()), find_holders(network.template)
    candidates, known = _find_candidates(network, holders, in_objects), network.adaptation.numbers
    followed: dict[type[nn.Module], dict[Slot, tuple[int, str]]] = {}  # by type: times and side
    likely: set[tuple[type[nn.Module], Slot]] = set()  # sizes of more than what only passes
    for number, times in (candidate for group in groups for candidate in candidates[group]):
        kind = type(modules[number.path])
        followed.setdefault(kind, {}).setdefault(number.slot, (times, _name_within(number)))
        if number.path not in holders or number.path in list_holders(number.tensor):
            likely.add((kind, number.slot))
    proposals: dict[int, list[Adaptation]] = {}  # by how many times the width
    tied, of_sides = list[Adaptation](), list[Adaptation]()
    for kind, first in followed.items():
        equal = {slot for slot, (times, _) in first.items() if times == 1}
        alike = [
            number
            for number, times in (candidate for some in candidates for candidate in some)
            if type(modules[number.path]) is kind and number not in known
            if times == 1 or number.slot not in equal
        ]
        alike.sort(key=lambda n: n.slot not in first or _name_within(n) != first[n.slot][1])
        sure = {slot for slot in equal if (kind, slot) in likely}
        for slots in _combine({*first}, equal, sure):
            times = max(first[slot][0] for slot in slots)
            members = [number for number in alike if number.slot in slots]
            firsts = {number.site: number for number in reversed(members)}
            proposals.setdefault(times, []).extend(_choose_tensors(members))
            tied.append(_tie_others(network.family, members, firsts, known))
            for side in sorted(set(map(_name_within, members))):
                on_side = {n.site: n for n in members if _name_within(n) == side}
                of_sides.append(Adaptation(numbers=tuple(on_side.values())))
                here = [number for number in members if number.site in on_side]
                tied.append(_tie_others(network.family, here, on_side, known))
    near = [replace(each, ties=tuple(filter(_is_near, each.ties))) for each in tied]
    lists = ([each for each in some if each.ties] for some in (near, tied))
    return Sizes([proposals[n] for n in sorted(proposals)], of_sides, *lists)


def _choose_tensors(numbers: Sequence[Number]) -> Iterable[Adaptation]:
    """Return adaptations: attributes follow their first tensor, one of the module, or the last."""
    own = sorted(numbers, key=lambda n: n.path not in list_holders(n.tensor))
    firsts, owned = ({n.site: n for n in reversed(some)} for some in (numbers, own))
    lasts = {n.site: n for n in numbers}
    each = (tuple(few.values()) for few in (firsts, owned, lasts))
    return dict.fromkeys(Adaptation(numbers=few) for few in each)


def _combine(slots: set[Slot], equal: set[Slot], sure: set[Slot]) -> list[set[Slot]]:
    """Return the sets of slots that are tried together, of those in a type of module.

    Args:
        equal: those that equal a size.
        sure: those of them that are the size of more than what only passes.
    """
    together = [sure] if len(sure) > 1 else []
    with_one = [sure | {slot} for slot in sorted(equal - sure, key=str) if sure]
    everything = [slots] if len(slots) > max(1, len(sure)) else []
    return [*together, *({slot} for slot in sorted(slots, key=str)), *with_one, *everything]


def _find_candidates(
    network: TracedNetwork, holders: Container[str], in_objects: bool
) -> list[list[Candidate]]:
    """Return the numbers that fit each group, as `_find_numbers` yields them.

    An attribute that equals a size is no multiple of another.
    """
    family, passing = network.family, network.trace.passing
    sizes = {
        path: [size for size in stored if (path, size[0]) in network.read]
        for path, stored in list_sizes(network.template, in_objects).items()
    }
    groups = range(len(family.groups))
    elsewhere = {path: () if path in holders else groups for path in sizes}
    passed: dict[str, Container[int]] = {
        path: family.groups_of(passing[path]) if path in passing else elsewhere[path]
        for path in sizes
    }
    fits = [
        list(_find_numbers(sizes, family, group, [p for p in passed if group in passed[p]]))
        for group in groups
    ]
    equal = {
        n.site
        for fit in fits
        for n, times in fit
        if times == 1 and (n.less or family.single[family.dimension_indices[n.tensor, n.axis]])
    }
    return [[(n, times) for n, times in fit if times == 1 or n.site not in equal] for fit in fits]


def _tie_others(
    family: Family,
    numbers: Sequence[Number],
    firsts: Mapping[tuple[str, Slot], Number],
    known: Sequence[Number],
) -> Adaptation:
    """Return the first number of every slot, and ties to the other numbers of these slots."""
    before = {number.site: number for number in known}
    owners = {**firsts, **before}
    tried = [_tie_numbers(family, owners[number.site], number) for number in numbers]
    new = tuple(number for site, number in firsts.items() if site not in before)
    return Adaptation(numbers=new, ties=tuple(tie for tie in tried if tie))


def _is_near(tie: Tie) -> bool:
    """Return whether a tie joins rows of two weights whose modules are parts of the same one."""
    owners = {".".join(tensor.split(".")[:-2]) for tensor, _ in tie}
    return len(owners) == 1 and all(axis == 0 for _, axis in tie)


def _tie_numbers(family: Family, one: Number, other: Number) -> Tie | None:
    """Return a tie of the groups of two numbers that are not yet the same, if there is one."""
    groups = [
        family.groups_at([(n.tensor, n.axis)]) - family.groups_at([side[:2] for side in n.less])
        for n in (one, other)
    ]
    if groups[0] == groups[1] or set(map(len, groups)) != {1}:
        return None
    (first,), (second,) = groups
    return find_tie(family, first, second)


def _find_numbers(
    sizes: dict[str, list[Size]], family: Family, group: int, passed: Iterable[str]
) -> Iterator[tuple[Number, int]]:
    """Yield attributes equal to a group's width or to the size of a dimension, or to a multiple.

    Each comes with how many times the width it is, or 1 if it is equal.

    It searches modules that hold tensors of the group, the modules around them, and those at the
    paths `passed`, through which the group passes; but no layers of PyTorch, whose own
    sizes `describe_module` sets.
    """
    width, times = family.groups[group].width, family.groups[group].per_dimension
    single, dimensions = family.single, family.dimensions
    alone: list[tuple[int, Less]] = [(d, ()) for d in times if single[d]]
    sized = [(d, less, times[d] * width) for d, less in alone or [*_find_mixed(family, group)][:1]]
    shared = [(d, (), len(dimensions[d].atoms)) for d in times if not single[d]]
    around = (path for d, *_ in sized for path in list_holders(dimensions[d].tensor))
    for path in dict.fromkeys((*around, *passed)) if sized else ():
        for name, size, inside, keys in sizes.get(path, ()):
            exact = [side for side in (*sized, *shared) if side[2] == size and not side[1]]
            whole = [side for side in sized if size % width == 0 == side[2] % size]
            if exact or whole or size == width:
                d, less, rest = (exact or whole or sized)[0]
                side = dimensions[d].tensor, dimensions[d].axis
                number = Number(path, name, *side, rest // size, inside, less, keys=keys)
                yield number, 1 if exact else size // width


def _name_within(number: Number) -> str:
    """Return a number's tensor, relative to the module that stores the number, and its axis."""
    return f"{number.tensor.removeprefix(f'{number.path}.')} {number.axis}"


def _find_mixed(family: Family, group: int) -> Iterator[tuple[int, Less]]:
    """Yield dimensions of a group, and dimensions whose sizes are what other groups have there."""
    for dimension in family.groups[group].per_dimension:
        less = []
        for partner in set(np.flatnonzero(family.factors[dimension]).tolist()) - {group}:
            count = int(family.factors[dimension, partner])
            for d, times in family.groups[partner].per_dimension.items():
                if family.single[d] and count % times == 0:
                    alone = family.dimensions[d]
                    less.append((alone.tensor, alone.axis, count // times))
                    break
            else:
                break
        else:
            if not family.constants[dimension]:
                yield dimension, tuple(less)


def select_read(
    network: TracedNetwork, proposals: list[list[Adaptation]]
) -> list[list[Adaptation]]:
    """Return the proposals with only those numbers that the forward pass reads.

    An object of configuration has many sizes that no code reads. A number counts as read if the
    network fails with a size that is one more or one less. Ties need all numbers of a proposal.
    """
    by_slot: dict[Slot, set[Number]] = {}
    for number in (n for adaptation in chain(*proposals) for n in adaptation.numbers):
        by_slot.setdefault(number.slot, set()).add(number)

    def is_read(numbers: set[Number]) -> bool:
        wrong = (tuple(replace(n, change=change) for n in numbers) for change in (1, -1))
        changed = (network.adapted(Adaptation(numbers=some)) for some in wrong)
        return any(catch_error(partial(resize, each, int), []) is not None for each in changed)

    if not by_slot or not is_read(set().union(*by_slot.values())):
        return []
    read = {slot for slot, numbers in by_slot.items() if is_read(numbers)}

    def select(alike: list[Adaptation]) -> Iterator[Adaptation]:
        for adaptation in alike:
            numbers = tuple(number for number in adaptation.numbers if number.slot in read)
            if numbers == adaptation.numbers or (numbers and not adaptation.ties):
                yield replace(adaptation, numbers=numbers)

    return [list(dict.fromkeys(select(alike))) for alike in proposals]


def find_tie(family: Family, first: int, second: int) -> Tie | None:
    """Return dimensions in which two groups have the same indices, or None without any.

    Other groups may have the other indices: parts of two dimensions are tied, too.
    """
    pairs = product(*(family.groups[group].per_dimension for group in (first, second)))
    for a, b in pairs:
        one, other = family.dimensions[a], family.dimensions[b]
        alone = family.single[[a, b]]
        if len(one.atoms) != len(other.atoms) or alone[0] != alone[1]:
            continue
        own, others = (family.find_indices(*pair) for pair in ((a, first), (b, second)))
        if alone[0] or np.array_equal(own, others):
            return (one.tensor, one.axis), (other.tensor, other.axis)
    return None


def list_ties(network: TracedNetwork, groups: Iterable[int]) -> Iterator[Adaptation]:
    """Yield ties of parts of splits, and of square weights, to one of these groups.

    The second one ties inputs of PyTorch's attention to its values, which are as wide.
    """
    wanted, family = set(groups), network.family
    attentions = [
        ((f"{path}.in_proj_weight", 1), (f"{path}.out_proj.weight", 1))
        for path, module in network.template.named_modules()
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
    ]
    split = {
        i
        for i, rows in enumerate(network.trace.parts)
        if rows.shape[1] > 1 and not wanted.isdisjoint(family.groups_of([rows]))
    }
    if split - network.adaptation.parts:
        yield Adaptation(parts=frozenset(split))
    if attentions:
        yield Adaptation(ties=tuple(attentions))
    yield from list_squares(network, wanted, [1])


def list_squares(
    network: TracedNetwork, groups: Iterable[int], squares: Container[int]
) -> Iterator[Adaptation]:
    """Yield ties of rows and columns of weights that consist of so many squares.

    One covers the weights of one name in one type of module, or all in a type of module.
    """
    modules, wanted = dict(network.template.named_modules()), set(groups)
    ties: dict[str, Tie] = {}
    kinds: dict[tuple[type[nn.Module], str], None] = {}
    owners: dict[str, tuple[type[nn.Module], str]] = {}
    for tensor, sides in _find_square_weights(network.family, squares):
        if (tie := ((tensor, 0), (tensor, 1))) not in network.adaptation.ties:
            ties[tensor], owners[tensor] = tie, _find_owner(modules, tensor)
            if wanted & sides:
                kinds[owners[tensor]] = None
    for kind in kinds:
        yield Adaptation(ties=tuple(tie for t, tie in ties.items() if owners[t] == kind))
    for user in dict.fromkeys(user for user, _ in kinds):
        yield Adaptation(ties=tuple(tie for t, tie in ties.items() if owners[t][0] is user))


def _find_owner(modules: dict[str, nn.Module], tensor: str) -> tuple[type[nn.Module], str]:
    """Return the type of the innermost module that also holds another weight, and the name in it.

    It is the attention around a projection, even if the projection is a convolution with a norm.
    """
    names = tensor.split(".")
    for i in range(len(names) - 1, 0, -1):
        owner = modules[".".join(names[:i])]
        if sum(p.ndim > 1 for p in owner.parameters()) > 1:
            return type(owner), ".".join(names[i:])
    return type(modules[""]), tensor


def _find_square_weights(family: Family, squares: Container[int]) -> Iterator[tuple[str, set[int]]]:
    """Yield tensors whose first two dimensions differ in groups, but are as of so many squares.

    Each comes with the indices of these groups.
    """
    atoms = {(d.tensor, d.axis): d.atoms for d in family.dimensions}
    for (tensor, axis), rows in atoms.items():
        columns = atoms.get((tensor, 1))
        if axis or columns is None:
            continue
        few, many = sorted(map(len, (rows, columns)))
        if few and many % few == 0 and many // few in squares:
            sides = [family.groups_of([side]) for side in (rows, columns)]
            if sides[0] != sides[1] and -1 not in sides[0] | sides[1]:
                yield tensor, sides[0] | sides[1]
