"""Find the reading of a network's code, and the adaptation, with which most units can be removed.

`ADAPTATIONS` lists all kinds of proposals. The search goes through it from the top, takes the first
proposal that helps, and then begins again at the top; where no kind helps, widths stay. A new kind
is a function and an entry in the list.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsopt.tracing import makers
from nsopt.tracing.adaptation import Adaptation, Tie
from nsopt.tracing.labels import Atoms, Reading, Split, Trace, TraceError
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.search import probe
from nsopt.tracing.search.sizes import (
    Sizes,
    find_sizes,
    find_tie,
    list_squares,
    list_ties,
    select_read,
)

Networks = Iterator[Iterable[TracedNetwork]]  # lists of alternatives
_PACKED = (2, 3)  # squares of a weight, such as one each for queries and keys


@dataclass(frozen=True, eq=False)
class Step:
    """A step of the search.

    Attributes:
        network: a network with an adaptation.
        kept: groups that cannot shrink with any adaptation, by their first atoms.
    """

    network: TracedNetwork
    kept: frozenset[int] = frozenset()

    @cached_property
    def shrinking(self) -> list[int]:
        """The groups of several units that may shrink."""
        groups = probe.list_shrinkable(self.network)
        return [i for i in groups if _find_first_atom(self.network, i) not in self.kept]

    @cached_property
    def error(self) -> TraceError | None:
        """Why the network does not run if they shrink; None if it does."""
        return probe.catch_error(partial(probe.shrink, self.network), self.shrinking)

    @cached_property
    def involved(self) -> list[int]:
        """Those of them with atoms in the failing operation, or all without any."""
        assert self.error is not None
        return probe.select_involved(self.network, self.shrinking, self.error)

    def give_up(self) -> "Step":
        """Return the step in which the involved groups keep their sizes."""
        atoms = {_find_first_atom(self.network, group) for group in self.involved}
        return Step(self.network, self.kept | atoms)

    @cached_property
    def sizes(self) -> Sizes:
        """Sizes in attributes that may let the involved groups shrink."""
        return find_sizes(self.network, self.involved)

    @cached_property
    def tied(self) -> list[TracedNetwork]:
        """The network with ties that may let the involved groups shrink."""
        return [*map(self.network.adapted, list_ties(self.network, self.involved))]


def _propose_sizes_of_tied(step: Step) -> Networks:
    atoms = [_find_first_atom(step.network, group) for group in step.involved]
    for tied in step.tied:
        units = tied.family.units.of_atom[atoms]
        groups = np.unique(tied.family.group_of_unit[units]).tolist()
        yield from _adapt_all(tied, find_sizes(tied, groups).in_order())


def _propose_configurations(step: Step) -> Networks:
    sizes = find_sizes(step.network, step.involved, in_objects=True)
    return _adapt_all(step.network, select_read(step.network, sizes.in_order()))


def _propose_packed(step: Step) -> Networks:
    return _adapt_all(step.network, [list_squares(step.network, step.involved, _PACKED)])


def _propose_equal_sizes(step: Step) -> Networks:
    """Yield networks with ties of groups to others that the failing code names by their sizes."""
    network, family = step.network, step.network.family
    counts = probe.count_fewer(network, step.shrinking)
    pairs = [
        (i, j)
        for i in step.involved
        for j, group in enumerate(family.groups)
        if len(group.units) == len(family.groups[i].units)
        if step.error and counts[i] != counts[j] in step.error.sizes
    ]
    ties = [tie for i, j in pairs if (tie := find_tie(family, i, j))]
    chosen = dict.fromkeys([tuple(ties), *((tie,) for tie in ties)])
    yield from _adapt_all(network, [(Adaptation(ties=some) for some in chosen if some)])


def _adapt_all(network: TracedNetwork, lists: Iterable[Iterable[Adaptation]]) -> Networks:
    for alternatives in lists:
        yield map(network.adapted, alternatives)


def _find_first_atom(network: TracedNetwork, group: int) -> int:
    """Return a group's first atom, which identifies it even if ties change its index."""
    unit = network.family.groups[group].units[0]
    return int(np.flatnonzero(network.family.units.of_atom == unit)[0])


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of proposals.

    Attributes:
        name: what it proposes.
        reason: which code needs it.
        propose: yields lists of alternatives, of which the best is taken; the most likely first.
        is_risky: whether equal sizes alone suggest it: if one proposal of the kind turns out to be
            useless, the search starts again without the kind.
    """

    name: str
    reason: str
    propose: Callable[[Step], Networks]
    is_risky: bool = False


# What changes with the widths. An adaptation is better if the network runs further when it shrinks.
ADAPTATIONS = (
    Kind(
        "sizes in attributes",
        "Modules read self.num_heads, self.dim or self.sizes[0], often of their own tensors.",
        lambda step: _adapt_all(step.network, step.sizes.alone),
    ),
    Kind(
        "sizes of one tensor",
        "Of two equally wide layers, self.size is that of one, and the other one may stay.",
        lambda step: _adapt_all(step.network, [step.sizes.of_sides]),
    ),
    Kind(
        "sizes of neighbours",
        "One self.head_dim is the size of queries and of values: both layers shrink together.",
        lambda step: _adapt_all(step.network, [step.sizes.of_neighbours]),
    ),
    Kind(
        "sizes of several tensors",
        "One self.embed_dim is the size of several tensors, as in nn.MultiheadAttention.",
        lambda step: _adapt_all(step.network, [step.sizes.shared]),
    ),
    Kind(
        "ties",
        "x.shape[-1] // heads in attention makes projections square; queries may have more heads "
        "than keys have; nn.MultiheadAttention has values as wide as its inputs.",
        lambda step: iter([step.tied]),
    ),
    Kind(
        "sizes after a tie",
        "How many heads there are is a size of units only after a tie makes heads the units.",
        _propose_sizes_of_tied,
    ),
    Kind(
        "sizes in configurations",
        "Transformers read self.config.hidden_size, among sizes that no code reads.",
        _propose_configurations,
    ),
    Kind(
        "ties of packed weights",
        "GPT-2 has queries, keys and values in one weight, of two or three squares.",
        _propose_packed,
    ),
    Kind(
        "sizes of other layers",
        "Code reshapes the output of one layer by the number of channels of another.",
        _propose_equal_sizes,
        is_risky=True,
    ),
)


class Found(NamedTuple):
    """A network with its adaptation, and why groups that it had are fixed."""

    network: TracedNetwork
    refused: dict[str, str]


def search(network: TracedNetwork, paths: Sequence[str]) -> Found:
    """Choose a reading and an adaptation; fix the groups that cannot lose units, or are of `paths`.

    A dimension of a split should not stay or follow a buffer if another one need not: rotary
    embeddings are tables of the size of a head, so heads are removed whole.

    Args:
        paths: of modules whose widths stay.

    Raises:
        NsoptError: for a wrong path.
    """
    tables = makers.name_tables(network.template)
    found: list[Found] = []
    for start in (*_avoid_tables(network, tables), network):
        found.append(_search_readings(start, paths))
        if found[-1].network.family.count_free(tables) >= network.family.count_free(tables):
            break  # no other can have more
    return max(found, key=lambda each: each.network.family.count_free(tables))


def _search_readings(network: TracedNetwork, paths: Sequence[str]) -> Found:
    """Return what the best reading leads to."""
    best, tried = _search_adaptations(network, paths), [network.trace.reading]
    while new := [each for each in _turn_groups(best.network) if each not in tried]:
        tried += new
        found = [best]
        for reading in new:
            with suppress(TraceError):
                found.append(_search_adaptations(network.read_as(reading), paths))
        best = max(found, key=lambda each: each.network.family.count_free())
    return best


def _avoid_tables(network: TracedNetwork, tables: Container[str]) -> list[TracedNetwork]:
    """Return the network read so that tables, and what is fixed, share no dimension with splits.

    Empty if less could then be removed.

    Args:
        tables: names of buffers, whose dimensions should not change.
    """
    units, bound = network.family.units, network.family.units.fixed.copy()
    for dimension in network.family.dimensions:
        bound[units.of_atom[dimension.atoms]] |= dimension.tensor in tables
    others = _list_axes(network.trace, bound[units.of_atom])
    rival = network
    while preferred := {key: axes[-1] for key, axes in others.items() if axes}:
        rival = network.read_as(Reading(preferred))
        useful = {
            (path, sizes)
            for path, sizes, _, atoms in rival.trace.splits
            if not _are_fixed(rival, atoms).all()
        }
        if not (useless := preferred.keys() - useful):
            break
        for key in useless:
            others[key].pop()
    is_better = rival.family.count_free(tables) >= network.family.count_free(tables)
    return [rival] if preferred and is_better else []


def _list_axes(trace: Trace, bound: NDArray[np.bool_]) -> dict[Split, list[int]]:
    """Return the dimensions of splits, the largest last, that may change in place of a bound one.

    Args:
        trace: the record with the splits.
        bound: whether an atom cannot be removed, or should not be, (atoms,).
    """
    others: dict[Split, list[int]] = {}
    for path, sizes, chosen, atoms in trace.splits:
        axes = [axis for axis, size in enumerate(sizes) if size > 1 and axis != chosen]
        if bound[atoms].all():
            others[path, sizes] = sorted(axes, key=sizes.__getitem__)
    return others


def _turn_groups(network: TracedNetwork) -> list[Reading]:
    """Return readings in which layers with groups that must stay, all or in part, lose the same
    channels of every group in place of whole groups: norms and convolutions may store how many
    groups they have, and not their size."""
    trace, reading = network.trace, network.trace.reading
    some = [(path, atoms) for path, atoms in trace.grouped if path in trace.group_sizes]
    tests: tuple[Callable[..., Any], ...] = np.all, np.any
    paths = [frozenset(p for p, a in some if test(_are_fixed(network, a))) for test in tests]
    return [replace(reading, turned=reading.turned ^ turned) for turned in dict.fromkeys(paths)]


def _are_fixed(network: TracedNetwork, atoms: Atoms) -> NDArray[np.bool_]:
    """Return which of these atoms cannot be removed."""
    return network.family.units.fixed[network.family.units.of_atom[atoms]]


def _search_adaptations(network: TracedNetwork, paths: Sequence[str]) -> Found:
    """Find an adaptation, and fix the groups that cannot lose units, or are of the modules at
    `paths`."""
    network = network.marked(makers.find_units(network, paths))
    refused: dict[str, str] = {}

    def fix(network: TracedNetwork, reasons: makers.Reasons) -> TracedNetwork:
        names = makers.name_layers(network)
        refused.update({names[i]: reason for i, reason in reasons.items()})
        return network.marked([network.family.groups[i].units for i in reasons])

    for find in (makers.find_unscorable, makers.find_divided, makers.find_hidden):
        network = fix(network, find(network))
    network = fix(*find_adaptation(network))
    network = fix(network, probe.find_dependent(network))
    return Found(fix(network, probe.find_indivisible(network)), refused)


def find_adaptation(
    network: TracedNetwork,
    useless: frozenset[Tie] = frozenset(),
    kinds: Sequence[Kind] = ADAPTATIONS,
) -> tuple[TracedNetwork, makers.Reasons]:
    """Find an adaptation with which more groups can shrink.

    If the groups that a tie joined cannot shrink after all, all is tried again without this tie.

    Args:
        network: the network.
        useless: ties that are not tried.
        kinds: of the proposals.

    Returns:
        The network with its adaptation, and the groups that cannot have fewer units, with the
        errors.
    """
    step, risky = Step(network), set[Tie]()
    while step.error is not None:
        if not step.involved:  # it does not even run as it is
            raise step.error
        proposed = ((kind, networks) for kind in kinds for networks in kind.propose(step))
        tried = ((kind, _take_furthest(step, useless, networks)) for kind, networks in proposed)
        kind, better = next(((kind, better) for kind, better in tried if better), (None, None))
        if kind is None or better is None:
            step = step.give_up()
            continue
        if kind.is_risky:
            risky |= {*better.network.adaptation.ties} - {*step.network.adaptation.ties}
        step = better
    adapted, left = step.network, step.shrinking
    suspects = [i for i in probe.list_shrinkable(adapted) if i not in left]
    held = {
        tie
        for tie in adapted.adaptation.ties
        if not adapted.family.groups_at(tie).isdisjoint(suspects)
    }
    if held:
        safe = [kind for kind in kinds if not kind.is_risky or risky.isdisjoint(held)]
        return find_adaptation(network, useless | held, safe)
    return adapted, probe.find_culprits(adapted, suspects, partial(probe.shrink, adapted))


def _take_furthest(
    step: Step, useless: frozenset[Tie], alternatives: Iterable[TracedNetwork]
) -> Step | None:
    """Return the first network that runs, or the one that runs furthest, if further than now."""
    best = step
    for network in alternatives:
        if useless.isdisjoint(network.adaptation.ties):
            tried = Step(network, step.kept)
            if tried.error is None:
                return tried
            assert best.error is not None
            best = tried if tried.error.step > best.error.step else best
    return None if best is step else best
