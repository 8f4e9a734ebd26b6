"""Find the reading of a network's code, and the adaptation, with which most units can be removed.

`READINGS` and `ADAPTATIONS` list all kinds of proposals. The search goes through a list from the
top, takes the first proposal that helps, and then begins again at the top; where no kind helps,
widths stay. A new kind is a function, in readings.py or proposals.py, and an entry in a list.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from nsopt.tracing import makers
from nsopt.tracing.adaptation import Tie
from nsopt.tracing.filling import name_tables
from nsopt.tracing.labels import Numbers, Reading, TraceError
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.search import probe, proposals, readings
from nsopt.tracing.search.proposals import Step, adapt_all

S = TypeVar("S")
P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Kind(Generic[S, P]):
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
    propose: Callable[[S], Iterable[Iterable[P]]]
    is_risky: bool = False


# How code is read. A reading is better if in the end more units can be removed.
READINGS: tuple[Kind[TracedNetwork, Reading], ...] = (
    Kind(
        "parts that change together",
        "Transformer-XL puts states before its inputs and cuts them off again by a length.",
        readings.join_parts,
    ),
    Kind(
        "channels of whole groups",
        "Norms and convolutions may store how many groups they have, in place of their size.",
        readings.turn_whole_groups,
    ),
    Kind(
        "another dimension of a split",
        "Attention may fix how many heads it has, or how large they are; so may grouped layers.",
        readings.split_otherwise,
    ),
)

# What changes with the widths. An adaptation is better if the network runs further when it shrinks.
ADAPTATIONS: tuple[Kind[Step, TracedNetwork], ...] = (
    Kind(
        "sizes in attributes",
        "Modules read self.num_heads, self.dim or self.sizes[0], often of their own tensors.",
        lambda step: adapt_all(step.network, step.sizes.alone),
    ),
    Kind(
        "sizes of one tensor",
        "Of two equally wide layers, self.size is that of one, and the other one may stay.",
        lambda step: adapt_all(step.network, [step.sizes.of_sides]),
    ),
    Kind(
        "sizes of neighbours",
        "One self.head_dim is the size of queries and of values: both layers shrink together.",
        lambda step: adapt_all(step.network, [step.sizes.of_neighbours]),
    ),
    Kind(
        "sizes of several tensors",
        "One self.embed_dim is the size of several tensors, as in nn.MultiheadAttention.",
        lambda step: adapt_all(step.network, [step.sizes.shared]),
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
        proposals.propose_sizes_of_tied,
    ),
    Kind(
        "sizes in configurations",
        "Transformers read self.config.hidden_size, among sizes that no code reads.",
        proposals.propose_configurations,
    ),
    Kind(
        "ties of packed weights",
        "GPT-2 has queries, keys and values in one weight, of two or three squares.",
        proposals.propose_packed,
    ),
    Kind(
        "sizes of other layers",
        "Code reshapes the output of one layer by the number of channels of another.",
        proposals.propose_equal_sizes,
        is_risky=True,
    ),
)


class Found(NamedTuple):
    """A network with its adaptation, why groups that it had are fixed, and the numbers with which
    it calculates if all others have one unit less."""

    network: TracedNetwork
    refused: dict[str, str]
    numbers: list[Numbers]


def search(network: TracedNetwork, paths: Sequence[str]) -> Found:
    """Choose a reading and an adaptation; fix the groups that cannot lose units, or are of `paths`.

    A dimension of a split should not stay or follow a buffer if another one need not: rotary
    embeddings are tables of the size of a head, so heads are removed whole.

    Args:
        paths: of modules whose widths stay.

    Raises:
        NsoptError: for a wrong path.
    """
    tables = name_tables(network.template)
    found: list[Found] = []
    for start in (*readings.avoid_tables(network, tables), network):
        found.append(_search_readings(start, paths))
        if found[-1].network.family.count_free(tables) >= network.family.count_free(tables):
            break  # no other can have more
    return max(found, key=lambda each: each.network.family.count_free(tables))


def _search_readings(network: TracedNetwork, paths: Sequence[str]) -> Found:
    """Return what the best reading leads to: parts may depend on each other."""
    best, tried = _search_adaptations(network, paths), [network.trace.reading]

    def choose(alternatives: Iterable[Reading]) -> Found | None:
        new, better = [each for each in alternatives if each not in tried], list[Found]()
        tried.extend(new)
        for reading in new:
            with suppress(TraceError):
                better.append(_search_adaptations(network.read_as(reading), paths))
        most = best.network.family.count_free()
        better = [found for found in better if found.network.family.count_free() > most]
        return max(better, key=lambda f: f.network.family.count_free(left=1), default=None)

    while taken := _try_kinds(best.network, READINGS, choose):
        best, _ = taken
    return best


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
    uneven, numbers = probe.find_indivisible(network)
    return Found(fix(network, uneven), refused, numbers)


def find_adaptation(
    network: TracedNetwork,
    useless: frozenset[Tie] = frozenset(),
    kinds: Sequence[Kind[Step, TracedNetwork]] = ADAPTATIONS,
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
        taken = _try_kinds(step, kinds, partial(_take_furthest, step, useless))
        if taken is None:
            step = step.give_up()
            continue
        better, kind = taken
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


def _try_kinds(
    state: S, kinds: Iterable[Kind[S, P]], choose: Callable[[Iterable[P]], R | None]
) -> tuple[R, Kind[S, P]] | None:
    """Return what `choose` takes of the first proposals that help, and their kind; else None."""
    for kind in kinds:
        for alternatives in kind.propose(state):
            if (taken := choose(alternatives)) is not None:
                return taken, kind
    return None


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
