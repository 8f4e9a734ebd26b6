"""Find lifts (lifts.py) with which more groups of a network can shrink, by trying proposals."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np

from nsopt.tracing.labels import TraceError
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.search.lifts import Lifts, Number, Place, Tie
from nsopt.tracing.search.probe import (
    Reasons,
    catch_error,
    count_fewer,
    find_culprits,
    list_shrinkable,
    resize,
    select_involved,
    shrink,
)
from nsopt.tracing.search.proposals import propose_numbers
from nsopt.tracing.search.ties import find_tie, propose_squares, propose_ties

_PACKED = (2, 3)  # squares of a weight, such as one each for queries and keys


def find_lifts(
    network: TracedNetwork, useless: frozenset[Tie] = frozenset(), by_size: bool = True
) -> tuple[TracedNetwork, Reasons]:
    """Find lifts with which more groups can shrink; keep a lift if the network then runs further.

    If the groups that a tie joined cannot shrink after all, all is tried again without this tie.

    Args:
        network: the network.
        useless: ties that are not tried.
        by_size: whether to tie groups to others that the code names by their sizes. Sizes may be
            equal by chance, so if one such tie is useless, none is tried again.

    Returns:
        The network with its lifts, and the groups that cannot have fewer units, with the errors.
    """
    start, sized = network, set[Tie]()
    hopeless: set[int] = set()  # first atoms of groups that cannot shrink with any lift
    error = _shrink_others(network, hopeless)
    while error is not None:
        others = _list_others(network, hopeless)
        involved = select_involved(network, others, error)
        if not involved:  # it does not even run as it is
            raise error
        partners = _tie_by_size(network, involved, others, error) if by_size else ()
        for proposals in chain(_propose_lifts(network, involved), [partners]):
            useful = (proposal for proposal in proposals if useless.isdisjoint(proposal.lifts.ties))
            best, left = _find_furthest(useful, hopeless, error)
            if best is not None:
                if proposals is partners:
                    sized |= {*best.lifts.ties} - {*network.lifts.ties}
                network, error = best, left
                break
        else:
            hopeless |= {_find_first_atom(network, index) for index in involved}
            error = _shrink_others(network, hopeless)
    others = _list_others(network, hopeless)
    suspects = [i for i in list_shrinkable(network) if i not in others]
    held = {
        tie for tie in network.lifts.ties if not network.family.groups_at(tie).isdisjoint(suspects)
    }
    if held:
        return find_lifts(start, useless | held, by_size and sized.isdisjoint(held))
    return network, find_culprits(network, suspects, partial(shrink, network))


def _find_furthest(
    proposals: Iterable[TracedNetwork], hopeless: set[int], error: TraceError
) -> tuple[TracedNetwork | None, TraceError | None]:
    """Return the first network that runs, or the one that runs furthest, with its error."""
    best, left = None, error
    for proposal in proposals:
        next_error = _shrink_others(proposal, hopeless)
        if next_error is None:
            return proposal, None
        if next_error.step > left.step:
            best, left = proposal, next_error
    return best, left


def _propose_lifts(
    network: TracedNetwork, groups: Sequence[int]
) -> Iterator[Iterable[TracedNetwork]]:
    """Yield networks with additional lifts that may let these groups shrink, the simplest first.

    Some numbers help only together with a tie: how many heads there are, if a tie makes them units.
    """
    yield from _propose_numbers(network, groups)
    ties = propose_ties(network.template, network.family, network.trace, groups, network.lifts)
    tied = [*map(network.with_lifts, ties)]
    yield tied
    atoms = [_find_first_atom(network, group) for group in groups]
    for lifted in tied:
        units = lifted.family.units.of_atom[atoms]
        yield from _propose_numbers(lifted, np.unique(lifted.family.group_of_unit[units]).tolist())
    yield from _propose_numbers(network, groups, in_objects=True)
    known = network.template, network.family, groups, network.lifts
    yield map(network.with_lifts, propose_squares(*known, squares=_PACKED))


def _tie_by_size(
    network: TracedNetwork, involved: Sequence[int], some: Sequence[int], error: TraceError
) -> Iterator[TracedNetwork]:
    """Yield networks with ties of groups to others that the failing code names by their sizes.

    As where it reshapes the output of one layer by the number of channels of another layer.

    Args:
        involved: groups in the failing operation.
        some: the groups that had fewer units.
    """
    counts, groups = count_fewer(network, some), network.family.groups
    pairs = [
        (i, j)
        for i in involved
        for j, group in enumerate(groups)
        if len(group.units) == len(groups[i].units) and counts[i] != counts[j] in error.sizes
    ]
    ties = [tie for i, j in pairs if (tie := find_tie(network.family, i, j))]
    for chosen in dict.fromkeys([tuple(ties), *((tie,) for tie in ties)]):
        if chosen:
            yield network.with_lifts(Lifts(ties=chosen))


def _propose_numbers(
    network: TracedNetwork, groups: Sequence[int], in_objects: bool = False
) -> Iterator[Iterable[TracedNetwork]]:
    known = network.template, network.family, groups, network.lifts
    proposals = propose_numbers(*known, network.read, network.trace.passing, in_objects)
    if in_objects:
        proposals = _select_read(network, proposals)
    for alike in proposals:
        yield map(network.with_lifts, alike)


def _select_read(network: TracedNetwork, proposals: list[list[Lifts]]) -> list[list[Lifts]]:
    """Return the proposals with only those numbers that the forward pass reads.

    An object of configuration has many sizes that no code reads. A number counts as read if the
    network fails with a size that is one more or one less. Ties need all numbers of a proposal.
    """
    by_place: dict[Place, set[Number]] = {}
    for number in (n for alike in proposals for lifts in alike for n in lifts.numbers):
        by_place.setdefault(number.place, set()).add(number)

    def fails(numbers: set[Number], change: int) -> bool:
        wrong = tuple(replace(number, change=change) for number in numbers)
        changed = network.with_lifts(Lifts(numbers=wrong))
        return catch_error(partial(resize, changed, int), []) is not None

    def is_read(numbers: set[Number]) -> bool:
        return fails(numbers, 1) or fails(numbers, -1)

    if not by_place or not is_read(set().union(*by_place.values())):
        return []
    read = {place for place, numbers in by_place.items() if is_read(numbers)}

    def select(alike: list[Lifts]) -> Iterator[Lifts]:
        for lifts in alike:
            numbers = tuple(number for number in lifts.numbers if number.place in read)
            if numbers == lifts.numbers or (numbers and not lifts.ties):
                yield replace(lifts, numbers=numbers)

    return [list(dict.fromkeys(select(alike))) for alike in proposals]


def _shrink_others(network: TracedNetwork, hopeless: set[int]) -> TraceError | None:
    """Shrink all groups but the hopeless ones; return the error, or None if the network runs."""
    return catch_error(partial(shrink, network), _list_others(network, hopeless))


def _list_others(network: TracedNetwork, hopeless: set[int]) -> list[int]:
    """Return the groups that have more than one unit, without the hopeless ones."""
    return [i for i in list_shrinkable(network) if _find_first_atom(network, i) not in hopeless]


def _find_first_atom(network: TracedNetwork, group: int) -> int:
    """Return a group's first atom, which identifies it even if lifts change its index."""
    unit = network.family.groups[group].units[0]
    return int(np.flatnonzero(network.family.units.of_atom == unit)[0])
