"""Find widths that the code of a network fixes, by trying other widths.

A size written as a number in Python, as in `x.view(-1, 512)`, has no label, so the trace does not
see it. nsopt therefore runs the network with all groups smaller, by a third and by one unit, and
with all groups larger. If a run fails, bisection finds the groups at fault among those in the
failing operation.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from nsopt.models.tracing.labels import Atoms, Numbers, Trace, TraceError
from nsopt.models.tracing.lifts import Lifts, Number, Place, Tie
from nsopt.models.tracing.network import FEWEST_SEEN, TracedNetwork
from nsopt.models.tracing.originals import copy_model
from nsopt.models.tracing.proposals import (
    find_sizes,
    propose_numbers,
    propose_squares,
    propose_ties,
)

_FEW = 5  # a third of which is one unit
_PACKED = (2, 3)  # squares of a weight, such as one each for queries and keys
Reasons = dict[int, str]  # by the index of a group
Attempt = Callable[[Sequence[int]], object]  # runs with some groups changed, or raises TraceError


def shrink_width(width: int) -> int:
    """Return the smaller width at which a group is tried, about two thirds of `width`."""
    return width - max(1, width // 3)


def find_lifts(
    network: TracedNetwork, useless: frozenset[Tie] = frozenset()
) -> tuple[TracedNetwork, Reasons]:
    """Find lifts with which more groups can shrink; keep a lift if the network then runs further.

    If the groups that a tie joined cannot shrink after all, all is tried again without this tie.

    Args:
        network: the network.
        useless: ties that are not tried.

    Returns:
        The network with its lifts, and the groups that cannot have fewer units, with the errors.
    """
    start = network
    hopeless: set[int] = set()  # first atoms of groups that cannot shrink with any lift
    error = _shrink_others(network, hopeless)
    while error is not None:
        involved = _select_involved(network, _list_others(network, hopeless), error)
        if not involved:  # it does not even run as it is
            raise error
        for proposals in _propose_lifts(network, involved):
            useful = (proposal for proposal in proposals if useless.isdisjoint(proposal.lifts.ties))
            best, left = _find_furthest(useful, hopeless, error)
            if best is not None:
                network, error = best, left
                break
        else:
            hopeless |= {_find_first_atom(network, index) for index in involved}
            error = _shrink_others(network, hopeless)
    others = _list_others(network, hopeless)
    suspects = [i for i in _list_shrinkable(network) if i not in others]
    held = {
        tie for tie in network.lifts.ties if not network.family.groups_at(tie).isdisjoint(suspects)
    }
    if held:
        return find_lifts(start, useless | held)
    return network, _find_culprits(network, suspects, partial(_shrink, network))


def find_unread(network: TracedNetwork) -> TracedNetwork:
    """Return the network with the sizes in attributes that `forward` does not read."""
    known = network.lifts
    changing = set(np.flatnonzero(network.family.factors.any(axis=1)).tolist())
    dimensions = [d for index, d in network.dimensions_in_order if index in changing]
    excluded = network.read | {(number.path, number.name) for number in known.unread}
    unread = find_sizes(network.template, dimensions, excluded)
    return replace(network, lifts=replace(known, unread=(*known.unread, *unread)))


def find_indivisible(network: TracedNetwork) -> tuple[Reasons, list[Numbers]]:
    """Return the groups that cannot lose a single unit, with the errors.

    The network may run only at widths that a number divides, or that are multiples of each other.

    Returns:
        The groups with the errors, and the numbers with which a network calculates in which all
        others have one unit less.
    """
    numbers: list[Numbers] = []

    def attempt(some: Sequence[int]) -> None:
        trace = _resize(network, lambda width: width - 1, some)
        if len(trace.choices) != len(network.trace.choices):  # its code may run other operations
            units = [len(group.units) for group in network.family.groups]
            network.check_cut([np.arange(n - (i in some)) for i, n in enumerate(units)])
        numbers[:] = trace.numbers

    wide = [i for i, width in enumerate(network.family.widths) if width > FEWEST_SEEN]
    return _find_culprits(network, wide, attempt), numbers


def find_capped(network: TracedNetwork) -> Reasons:
    """Return the groups that cannot have more units, with the errors."""
    groups = list(range(len(network.family.groups)))
    grow = partial(_resize, network, lambda width: width + max(1, width // 3))
    return _find_culprits(network, groups, grow)


def find_counted(network: TracedNetwork, after: list[Numbers]) -> list[int]:
    """Return the exact groups with whose sizes the code calculates, as in `y / y.shape[1]`.

    Such a network calculates with other numbers if a group has one unit less; or, where the code
    rounds or compares, if it has a third of its units.

    Args:
        after: the numbers of a network in which all wide groups have one unit less.
    """
    exact = [i for i, g in enumerate(network.family.groups) if g.exact and g.width > 1]
    before = network.trace.numbers
    if after != before:  # the first run may have filled a cache, and joined other labels
        before = _resize(network, lambda width: width, []).numbers
    narrow = any(network.family.widths[i] <= FEWEST_SEEN for i in exact)
    changes = [lambda width: max(FEWEST_SEEN, width // 3)]
    if after != before or narrow:
        changes.insert(0, lambda width: width - 1)
    counted: set[int] = set()
    for change in changes:
        others = [i for i in exact if i not in counted]
        counted |= _find_differing(network, before, change, others)
    return sorted(counted)


def _find_differing(
    network: TracedNetwork, numbers: list[Numbers], change: Callable[[int], int], some: list[int]
) -> set[int]:
    """Return those of some groups with which the network calculates with other numbers if they are
    changed, alone or together; but none that is then too narrow for the code."""
    if not some:
        return set()
    try:
        fails, differs = False, _resize(network, change, some).numbers != numbers
    except TraceError:
        fails, differs = True, True
    if not differs or len(some) == 1:
        return set(some) if differs and not fails else set()
    halves = some[: len(some) // 2], some[len(some) // 2 :]
    found = set().union(*(_find_differing(network, numbers, change, half) for half in halves))
    return found if found or fails else set(some)


def find_dependent(network: TracedNetwork) -> Reasons:
    """Return the groups of parts of a dimension that cannot shrink alone, with the errors.

    They may be shares of it: then they shrink only together.
    """
    cut = network.family.units.of_atom[np.concatenate([np.zeros(0, np.int64), *network.trace.cuts])]
    groups = network.family.groups
    parts = [i for i in _list_shrinkable(network) if np.isin(groups[i].units, cut).any()]

    def share(one: int, other: int) -> bool:
        return not groups[one].per_dimension.keys().isdisjoint(groups[other].per_dimension)

    turns: list[list[int]] = []  # parts of different dimensions are tried together
    for i in parts:
        turn = next((turn for turn in turns if not any(share(i, j) for j in turn)), None)
        if turn is None:
            turns.append(turn := [])
        turn.append(i)
    errors: Reasons = {}
    for turn in turns:
        errors |= _find_culprits(network, turn, partial(_shrink, network))
    return {j: error for i, error in errors.items() for j in parts if share(i, j)}


def find_narrowest(network: TracedNetwork) -> Atoms:
    """Return the smallest widths (L,) at which a network runs and has the same groups.

    Only powers of two and the base width are tried for each group.
    """
    # Another thread may be using the template.
    network = replace(network, template=copy_model(network.template))
    base = np.array(network.family.widths, np.int64)
    rigid = np.array([group.rigid for group in network.family.groups])
    result = np.where(rigid, np.minimum(FEWEST_SEEN, base), 1)
    suspects = np.flatnonzero(result < base).tolist()
    while suspects:
        narrow = partial(_narrow, network, result, suspects)
        suspects = list(_find_culprits(network, suspects, narrow))
        result[suspects] = np.minimum(2 * result[suspects], base[suspects])
        suspects = [i for i in suspects if result[i] < base[i]]
    return result


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
        return _catch_error(partial(_resize, changed, int), []) is not None

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
    return _catch_error(partial(_shrink, network), _list_others(network, hopeless))


def _list_others(network: TracedNetwork, hopeless: set[int]) -> list[int]:
    """Return the groups that have more than one unit, without the hopeless ones."""
    return [i for i in _list_shrinkable(network) if _find_first_atom(network, i) not in hopeless]


def _list_shrinkable(network: TracedNetwork) -> list[int]:
    """Return the groups that have more than one unit."""
    return [i for i, group in enumerate(network.family.groups) if len(group.units) > 1]


def _find_first_atom(network: TracedNetwork, group: int) -> int:
    """Return a group's first atom, which identifies it even if lifts change its index."""
    unit = network.family.groups[group].units[0]
    return int(np.flatnonzero(network.family.units.of_atom == unit)[0])


def _shrink(network: TracedNetwork, some: Sequence[int]) -> None:
    """Run a network in which some groups have fewer units. Raises TraceError if it fails.

    The first group loses a third of its units, the next of this size, or the first of the next
    size, a third but one unit, and so on: this reveals code that uses the size of one group for
    another group. Few units lose only one, and of two units one is left, with which any lift
    agrees: there a network with more units shows which lift is right.
    """
    kept, places = [], dict[int, int]()
    for index, group in enumerate(network.family.groups):
        count = len(group.units)
        if index in some:
            most = count - shrink_width(count)
            place = places.setdefault(count, len(places))
            places[count] += 1
            count -= most - place % most
        kept.append(np.arange(count))
    network.check_cut(kept)
    few = [i for i in some if len(network.family.groups[i].units) <= _FEW]
    if few and (network.lifts.numbers or network.lifts.ties or network.lifts.parts):
        _check_few(network, few)


def _check_few(network: TracedNetwork, few: Sequence[int]) -> None:
    """Raise TraceError if groups of few units can grow, but not by different numbers of units."""
    widths = np.array(network.family.widths, np.int64)
    counts = widths[list(few)].tolist()
    widths[list(few)] += 1
    if _catch_error(lambda _: network.check_widths(widths), few) is not None:
        return  # it cannot grow, which shows nothing
    widths[list(few)] += [counts[:place].count(count) for place, count in enumerate(counts)]
    _try_widths(network, widths)


def _try_widths(network: TracedNetwork, widths: Atoms) -> None:
    """Run and trace a network of `widths`. Raises TraceError if it fails: no other one is worse."""
    try:
        network.check_widths(widths)
        network.retrace(network.build_empty(widths), widths)
    except TraceError as error:  # drop its atoms: they may belong to another network
        raise TraceError(str(error), step=0) from None


def _resize(network: TracedNetwork, change: Callable[[int], int], some: Sequence[int]) -> Trace:
    """Run a network in which some widths are changed. Raises TraceError if it fails."""
    widths = np.array(network.family.widths, np.int64)
    widths[list(some)] = [change(width) for width in widths[list(some)].tolist()]
    return network.check_widths(widths)


def _narrow(
    network: TracedNetwork, narrow: Atoms, suspects: Sequence[int], some: Sequence[int]
) -> None:
    """Run and trace a network of the widths `narrow`. Raises TraceError if it fails.

    Suspects that are not in `some` keep their base widths.
    """
    wide = [index for index in suspects if index not in some]
    widths = narrow.copy()
    widths[wide] = np.array(network.family.widths)[wide]
    _try_widths(network, widths)


def _find_culprits(network: TracedNetwork, suspects: list[int], attempt: Attempt) -> Reasons:
    """Return suspects without which `attempt` succeeds, each with its error."""
    reasons: Reasons = {}
    active = suspects
    while active and (error := _catch_error(attempt, active)) is not None:
        involved = _select_involved(network, active, error)
        if involved != active and _catch_error(attempt, involved) is None:
            involved = active  # those at fault have no atoms in the operation
        while len(involved) > 1:
            middle = len(involved) // 2
            halves = (involved[:middle], involved[middle:])
            failing = next((h for h in halves if _catch_error(attempt, h) is not None), None)
            if failing is None:
                break  # they fail only together
            involved = failing
        reasons |= dict.fromkeys(involved, str(error))
        active = [index for index in active if index not in reasons]
    return reasons


def _catch_error(attempt: Attempt, some: Sequence[int]) -> TraceError | None:
    """Return the error of `attempt` for these groups, or None if it succeeds."""
    try:
        attempt(some)
    except TraceError as error:
        return error
    return None


def _select_involved(network: TracedNetwork, active: list[int], error: TraceError) -> list[int]:
    """Return the active groups with atoms in the failing operation, or all without any."""
    dimensions = network.family.dimensions_of(error.atoms) if error.atoms.size else set()
    groups = network.family.groups
    involved = [index for index in active if dimensions & groups[index].per_dimension.keys()]
    return involved or active
