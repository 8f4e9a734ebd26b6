"""Find widths that the code of a network fixes, by trying other widths.

A size that is written in Python (`x.view(-1, 512)`) has no label, so a trace does not see it.
Therefore the network runs with all groups smaller, and with all groups larger. If that fails,
bisection finds the groups at fault among those whose channels the failing operation used.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from nsopt.models.tracing.labels import Atoms, TraceError
from nsopt.models.tracing.lifts import propose_numbers, propose_ties
from nsopt.models.tracing.network import FEWEST_SEEN, TracedNetwork
from nsopt.models.tracing.originals import copy_model

Reasons = dict[int, str]  # by the index of a group


def shrink_width(width: int) -> int:
    """Return the smaller width at which a group is tried, about two thirds of `width`."""
    return width - max(1, width // 3)


def find_lifts(network: TracedNetwork) -> tuple[TracedNetwork, list[int]]:
    """Find lifts with which more groups can shrink. A lift is kept if the network runs further.

    Returns:
        The network with its lifts, and the groups that may still be unable to shrink.
    """
    hopeless: set[int] = set()  # by the first atom of a group
    error = _shrink_hopeful(network, hopeless)
    while error is not None:
        met = _select_met(network, _list_hopeful(network, hopeless), error)
        for better in _propose_lifts(network, met):
            now = _shrink_hopeful(better, hopeless)
            if now is None or now.step > error.step:
                network, error = better, now
                break
        else:
            hopeless |= {_find_first_atom(network, index) for index in met}
            error = _shrink_hopeful(network, hopeless)
    hopeful = _list_hopeful(network, hopeless)
    return network, [i for i in _list_shrinkable(network) if i not in hopeful]


def _propose_lifts(network: TracedNetwork, met: Sequence[int]) -> Iterator[TracedNetwork]:
    """Yield the network with more lifts, which may help these groups."""
    for find in (propose_numbers, propose_ties):
        for lifts in find(network.template, network.family, met, network.lifts):
            yield network.with_lifts(network.lifts + lifts)


def _shrink_hopeful(network: TracedNetwork, hopeless: set[int]) -> TraceError | None:
    """Shrink all groups but the hopeless ones; return the error, or None if the network runs."""
    return _catch_error(partial(_shrink, network), _list_hopeful(network, hopeless))


def _list_hopeful(network: TracedNetwork, hopeless: set[int]) -> list[int]:
    """Return the groups that can lose a unit and are not hopeless (by first atom)."""
    return [i for i in _list_shrinkable(network) if _find_first_atom(network, i) not in hopeless]


def _find_first_atom(network: TracedNetwork, group: int) -> int:
    """Return the first atom of a group, which names it even if lifts change the groups."""
    unit = network.family.groups[group].units[0]
    return int(np.flatnonzero(network.family.units.of_atom == unit)[0])


def _list_shrinkable(network: TracedNetwork) -> list[int]:
    """Return the groups that have more than one unit."""
    return [i for i, group in enumerate(network.family.groups) if len(group.units) > 1]


def _shrink(network: TracedNetwork, some: Sequence[int]) -> None:
    """Check a network in which some groups are smaller. Raises TraceError if it fails.

    Groups of equal widths lose different numbers of units. This reveals code that uses the size of
    one group for another.
    """
    kept, before = [], Counter[int]()
    for index, group in enumerate(network.family.groups):
        count = len(group.units)
        most = count - shrink_width(count)
        lost = most - before[count] % most if index in some else 0
        before[count] += index in some
        kept.append(np.arange(count - lost))
    network.check_cut(kept)


def find_unshrinkable(network: TracedNetwork, suspects: list[int]) -> Reasons:
    """Return those suspects that cannot have fewer units, with the errors."""
    return _find_culprits(network, suspects, partial(_shrink, network))


def find_capped(network: TracedNetwork) -> Reasons:
    """Return the groups that cannot have more units, with the errors."""
    widths = np.array(network.family.widths, np.int64)

    def grow(some: Sequence[int]) -> None:
        larger = widths.copy()
        larger[list(some)] += np.maximum(1, widths[list(some)] // 3)
        network.check_widths(larger)

    return _find_culprits(network, list(range(len(widths))), grow)


def find_narrowest(network: TracedNetwork) -> Atoms:
    """Return the smallest widths (L,) at which a network runs and has the same groups.

    Only powers of two and the base width are tried for each group.
    """
    network = replace(network, template=copy_model(network.template))  # others may use it now
    base = np.array(network.family.widths, np.int64)
    rigid = np.array([group.rigid for group in network.family.groups])
    result = np.where(rigid, np.minimum(FEWEST_SEEN, base), 1)
    suspects = np.flatnonzero(result < base).tolist()
    while suspects:

        def narrow(some: Sequence[int], trying: Sequence[int] = tuple(suspects)) -> None:
            widths = base.copy()
            settled = [i for i in range(len(base)) if i not in trying]
            widths[[*settled, *some]] = result[[*settled, *some]]
            try:
                network.check_widths(widths)
                network.retrace(network.build_empty(widths))
            except TraceError as error:
                raise TraceError(str(error)) from None  # its atoms belong to another network

        suspects = list(_find_culprits(network, suspects, narrow))
        result[suspects] = np.minimum(2 * result[suspects], base[suspects])
        suspects = [i for i in suspects if result[i] < base[i]]
    return result


def _find_culprits(
    network: TracedNetwork, suspects: list[int], attempt: Callable[[Sequence[int]], None]
) -> Reasons:
    """Return suspects without which `attempt` succeeds, each with the error that it caused."""
    found: Reasons = {}
    active = suspects
    while active and (error := _catch_error(attempt, active)) is not None:
        met = _select_met(network, active, error)
        while len(met) > 1:
            middle = len(met) // 2
            halves = (met[:middle], met[middle:])
            failing = next((h for h in halves if _catch_error(attempt, h) is not None), None)
            if failing is None:
                break  # they fail only together
            met = failing
        found |= dict.fromkeys(met, str(error))
        active = [index for index in active if index not in found]
    return found


def _catch_error(
    attempt: Callable[[Sequence[int]], None], some: Sequence[int]
) -> TraceError | None:
    """Attempt something with some groups; return its error, or None."""
    try:
        attempt(some)
    except TraceError as error:
        return error
    return None


def _select_met(network: TracedNetwork, active: list[int], error: TraceError) -> list[int]:
    """Return the active groups with atoms in the failing operation; if there are none, all."""
    dimensions = network.dimensions_of(error.atoms) if error.atoms.size else set()
    groups = network.family.groups
    met = [index for index in active if dimensions & groups[index].per_dimension.keys()]
    return met or active
