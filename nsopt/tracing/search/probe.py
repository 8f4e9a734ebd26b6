"""Find widths that the code of a network fixes, by trying other widths.

A size written as a number in Python, as in `x.view(-1, 512)`, has no label, so the trace does not
see it. nsopt therefore runs the network with all groups smaller, by a third and by one unit, and
with all groups larger. If a run fails, bisection finds the groups at fault among those in the
failing operation.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from nsopt.tracing.labels import Atoms, Trace, TraceError
from nsopt.tracing.makers import Reasons
from nsopt.tracing.network import FEWEST_TRACED, TracedNetwork
from nsopt.tracing.originals import copy_model

_FEW = 5  # a third of which is one unit
Attempt = Callable[[Sequence[int]], object]  # runs with some groups changed, or raises TraceError


def shrink_width(width: int) -> int:
    """Return the smaller width at which a group is tried, about two thirds of `width`."""
    return width - max(1, width // 3)


def find_indivisible(network: TracedNetwork) -> Reasons:
    """Return the groups that cannot lose a single unit, with the errors.

    The network may run only at widths that a number divides, or that are multiples of each other.
    Groups that meet may do if each loses a unit, so some lose one without their neighbours, too.
    """

    def attempt(some: Sequence[int]) -> None:
        trace = resize(network, lambda width: width - 1, some)
        if len(trace.choices) != len(network.trace.choices):  # its code may run other operations
            units = [len(group.units) for group in network.family.groups]
            network.check_cut([np.arange(n - (i in some)) for i, n in enumerate(units)])

    wide = [i for i, width in enumerate(network.family.widths) if width > FEWEST_TRACED]
    together, apart = find_culprits(network, wide, attempt), Reasons()
    one_less = partial(resize, network, lambda width: width - 1)
    for digit in (1, 2):
        some = [i for n, i in enumerate(wide, 1) if n & digit and i not in together | apart]
        apart |= find_culprits(network, some, one_less)
    if apart:
        left = [i for i in wide if i not in together | apart]
        apart |= find_culprits(network, left, attempt)
    return together | apart


def find_capped(network: TracedNetwork) -> Reasons:
    """Return the groups that cannot have more units, with the errors."""
    groups = list(range(len(network.family.groups)))
    grow = partial(resize, network, lambda width: width + max(1, width // 3))
    return find_culprits(network, groups, grow)


def find_dependent(network: TracedNetwork) -> Reasons:
    """Return the groups of parts of a dimension that cannot shrink alone, with the errors.

    They may be shares of it: then they shrink only together.
    """
    cut = network.family.units.of_atom[np.concatenate([np.zeros(0, np.int64), *network.trace.cuts])]
    groups = network.family.groups
    parts = [i for i in list_shrinkable(network) if np.isin(groups[i].units, cut).any()]

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
        errors |= find_culprits(network, turn, partial(shrink, network))
    return {j: error for i, error in errors.items() for j in parts if share(i, j)}


def find_narrowest(network: TracedNetwork) -> Atoms:
    """Return the smallest widths (L,) at which a network runs and has the same groups.

    Only powers of two and the base width are tried for each group.
    """
    # Another thread may be using the template.
    network = replace(network, template=copy_model(network.template))
    base = np.array(network.family.widths, np.int64)
    rigid = np.array([group.rigid for group in network.family.groups])
    result = np.where(rigid, np.minimum(FEWEST_TRACED, base), 1)
    suspects = np.flatnonzero(result < base).tolist()
    while suspects:
        narrow = partial(_narrow, network, result, suspects)
        suspects = list(find_culprits(network, suspects, narrow))
        result[suspects] = np.minimum(2 * result[suspects], base[suspects])
        suspects = [i for i in suspects if result[i] < base[i]]
    return result


def list_shrinkable(network: TracedNetwork) -> list[int]:
    """Return the groups that have more than one unit."""
    return [i for i, group in enumerate(network.family.groups) if len(group.units) > 1]


def shrink(network: TracedNetwork, some: Sequence[int]) -> None:
    """Run a network in which some groups have fewer units. Raises TraceError if it fails.

    Of two units one is left, with which any adaptation agrees: there a network with more units
    shows which one is right.
    """
    network.check_cut([np.arange(count) for count in count_fewer(network, some)])
    few = [i for i in some if len(network.family.groups[i].units) <= _FEW]
    adaptation = network.adaptation
    if few and (adaptation.numbers or adaptation.ties or adaptation.parts):
        _check_few(network, few)


def count_fewer(network: TracedNetwork, some: Sequence[int]) -> list[int]:
    """Return how many units all groups have if some of them have fewer.

    The first group loses a third of its units, the next of this size, or the first of the next
    size, a third but one unit, and so on; up to half if a dimension of another group that was as
    large would again be as large. This reveals code that uses the size of one group for another
    group. Few units lose only one, and come first: they have no choice.
    """
    counts = [len(group.units) for group in network.family.groups]
    turns, taken = dict[int, int](), set[tuple[int, int]]()
    for i in sorted(some, key=lambda i: counts[i] > _FEW):
        count, factors = counts[i], {*network.family.groups[i].per_dimension.values()}
        least = shrink_width(count)
        turn = turns.setdefault(count, len(turns))
        turns[count] += 1
        fewer = [least + (turn + k) % (count - least) for k in range(count - least)]
        fewer += range(least - 1, count // 2, -1)
        free = (n for n in fewer if taken.isdisjoint(_pair_sizes(factors, count, n)))
        counts[i] = next(free, fewer[0])
        taken |= _pair_sizes(factors, count, counts[i])
    return counts


def _pair_sizes(factors: set[int], before: int, after: int) -> set[tuple[int, int]]:
    """Return the sizes that dimensions have before and after a change of a number of units."""
    return {(before * factor, after * factor) for factor in factors}


def _check_few(network: TracedNetwork, few: Sequence[int]) -> None:
    """Raise TraceError if groups of few units can grow, but not by different numbers of units."""
    widths = np.array(network.family.widths, np.int64)
    counts = widths[list(few)].tolist()
    widths[list(few)] += 1
    if catch_error(lambda _: network.check_widths(widths), few) is not None:
        return  # it cannot grow, which shows nothing
    widths[list(few)] += [counts[:i].count(count) for i, count in enumerate(counts)]
    _try_widths(network, widths)


def _try_widths(network: TracedNetwork, widths: Atoms) -> None:
    """Run and trace a network of `widths`. Raises TraceError if it fails: no other one is worse."""
    try:
        network.check_widths(widths)
        network.retrace(network.build_empty(widths), widths)
    except TraceError as error:  # drop its atoms: they may belong to another network
        raise TraceError(str(error), step=0) from None


def resize(network: TracedNetwork, change: Callable[[int], int], some: Sequence[int]) -> Trace:
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


def find_culprits(network: TracedNetwork, suspects: list[int], attempt: Attempt) -> Reasons:
    """Return suspects without which `attempt` succeeds, each with its error."""
    reasons: Reasons = {}
    active = suspects
    while active and (error := catch_error(attempt, active)) is not None:
        involved = select_involved(network, active, error)
        if involved != active and catch_error(attempt, involved) is None:
            involved = active  # those at fault have no atoms in the operation
        while len(involved) > 1:
            middle = len(involved) // 2
            halves = (involved[:middle], involved[middle:])
            failing = next((h for h in halves if catch_error(attempt, h) is not None), None)
            if failing is None:
                break  # they fail only together
            involved = failing
        reasons |= dict.fromkeys(involved, str(error))
        active = [index for index in active if index not in reasons]
    return reasons


def catch_error(attempt: Attempt, some: Sequence[int]) -> TraceError | None:
    """Return the error of `attempt` for these groups, or None if it succeeds."""
    try:
        attempt(some)
    except TraceError as error:
        return error
    return None


def select_involved(network: TracedNetwork, active: list[int], error: TraceError) -> list[int]:
    """Return the active groups with atoms in the failing operation, or all without any."""
    dimensions = network.family.dimensions_of(error.atoms) if error.atoms.size else set()
    groups = network.family.groups
    involved = [index for index in active if dimensions & groups[index].per_dimension.keys()]
    return involved or active
