"""Which widths the code of a network writes down: found by trying others.

A size in Python (`x.view(-1, 512)`) leaves no label. All groups are made smaller at once, and then
larger; where that fails, the groups whose channels met at the failing operation are narrowed down.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from nsopt.models.tracing.labels import Atoms, TraceError
from nsopt.models.tracing.lifts import numbers_near, ties_of
from nsopt.models.tracing.network import FEWEST_SEEN, TracedNetwork

Reasons = dict[int, str]  # by the index of a group


def smaller(width: int) -> int:
    """The smallest width at which groups are tried at once, so that they are known to run there."""
    return width - max(1, width // 3)


def lifted(network: TracedNetwork) -> tuple[TracedNetwork, list[int]]:
    """The network with all lifts that let it shrink, and the groups among which others fail.

    A lift is kept if the network runs further with it.
    """
    hopeless: set[int] = set()  # by the first atom of a group
    error = _error_without(network, hopeless)
    while error is not None:
        met = _that_met(network, _hopeful(network, hopeless), error)
        for better in _options(network, met):
            now = _error_without(better, hopeless)
            if now is None or now.step > error.step:
                network, error = better, now
                break
        else:
            hopeless |= {_first(network, index) for index in met}
            error = _error_without(network, hopeless)
    hopeful = _hopeful(network, hopeless)
    return network, [i for i in _shrinking(network) if i not in hopeful]


def _options(network: TracedNetwork, met: Sequence[int]) -> Iterator[TracedNetwork]:
    for find in (numbers_near, ties_of):
        for lifts in find(network.template, network.family, met, network.lifts):
            yield network.with_lifts(network.lifts + lifts)


def _error_without(network: TracedNetwork, hopeless: set[int]) -> TraceError | None:
    """What happens when all but the hopeless groups shrink."""
    return _error(partial(_shrink, network), _hopeful(network, hopeless))


def _hopeful(network: TracedNetwork, hopeless: set[int]) -> list[int]:
    return [i for i in _shrinking(network) if _first(network, i) not in hopeless]


def _first(network: TracedNetwork, group: int) -> int:
    """The first atom of a group."""
    unit = network.family.groups[group].units[0]
    return int(np.flatnonzero(network.family.units.of_atom == unit)[0])


def _shrinking(network: TracedNetwork) -> list[int]:
    """Groups that have a unit to lose."""
    return [i for i, group in enumerate(network.family.groups) if len(group.units) > 1]


def _shrink(network: TracedNetwork, some: Sequence[int]) -> None:
    """Groups of equal widths lose different numbers of units, so that code which takes one size for
    the other shows."""
    kept, before = [], Counter[int]()
    for index, group in enumerate(network.family.groups):
        count = len(group.units)
        most = count - smaller(count)
        lost = most - before[count] % most if index in some else 0
        before[count] += index in some
        kept.append(np.arange(count - lost))
    network.check_cut(kept)


def cannot_shrink(network: TracedNetwork, suspects: list[int]) -> Reasons:
    """Groups, among the suspects, that a network cannot have fewer units of, with what happened."""
    return _culprits(network, suspects, partial(_shrink, network))


def cannot_grow(network: TracedNetwork) -> Reasons:
    """Groups that a network cannot have more units of."""
    widths = np.array(network.family.widths, np.int64)

    def grow(some: Sequence[int]) -> None:
        larger = widths.copy()
        larger[list(some)] += np.maximum(1, widths[list(some)] // 3)
        network.check_widths(larger)

    return _culprits(network, list(range(len(widths))), grow)


def narrowest(network: TracedNetwork) -> Atoms:
    """The smallest widths (L,) at which a network runs and its channels join alike: of every group,
    a power of two or its base width."""
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
                network.at(network.empty(widths))
            except TraceError as error:
                raise TraceError(str(error)) from None  # its atoms are those of another network

        suspects = list(_culprits(network, suspects, narrow))
        result[suspects] = np.minimum(2 * result[suspects], base[suspects])
        suspects = [i for i in suspects if result[i] < base[i]]
    return result


def _culprits(
    network: TracedNetwork, suspects: list[int], attempt: Callable[[Sequence[int]], None]
) -> Reasons:
    """The suspects without which `attempt` succeeds."""
    found: Reasons = {}
    active = suspects
    while active and (error := _error(attempt, active)) is not None:
        met = _that_met(network, active, error)
        while len(met) > 1:
            middle = len(met) // 2
            halves = (met[:middle], met[middle:])
            failing = next((h for h in halves if _error(attempt, h) is not None), None)
            if failing is None:
                break  # they fail only together
            met = failing
        found |= dict.fromkeys(met, str(error))
        active = [index for index in active if index not in found]
    return found


def _error(attempt: Callable[[Sequence[int]], None], some: Sequence[int]) -> TraceError | None:
    try:
        attempt(some)
    except TraceError as error:
        return error
    return None


def _that_met(network: TracedNetwork, active: list[int], error: TraceError) -> list[int]:
    """Those of the active groups whose atoms met where it failed; all if none is known to have."""
    dimensions = network.dimensions_of(error.atoms) if error.atoms.size else set()
    groups = network.family.groups
    met = [index for index in active if dimensions & groups[index].per_dimension.keys()]
    return met or active
