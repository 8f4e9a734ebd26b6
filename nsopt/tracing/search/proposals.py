"""Propose adaptations: sizes that modules store, and ties of dimensions. search.py lists them."""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from torch import nn

from nsopt.tracing.adaptation import Adaptation, Tie
from nsopt.tracing.groups import Family
from nsopt.tracing.labels import TraceError
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.search import probe
from nsopt.tracing.search.sizes import Sizes, find_sizes, find_tie, select_read

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
        return [*map(self.network.adapted, _list_ties(self.network, self.involved))]


def propose_sizes_of_tied(step: Step) -> Networks:
    atoms = [_find_first_atom(step.network, group) for group in step.involved]
    for tied in step.tied:
        units = tied.family.units.of_atom[atoms]
        groups = np.unique(tied.family.group_of_unit[units]).tolist()
        yield from adapt_all(tied, find_sizes(tied, groups).in_order())


def propose_configurations(step: Step) -> Networks:
    sizes = find_sizes(step.network, step.involved, in_objects=True)
    return adapt_all(step.network, select_read(step.network, sizes.in_order()))


def propose_packed(step: Step) -> Networks:
    return adapt_all(step.network, [_list_squares(step.network, step.involved, _PACKED)])


def propose_equal_sizes(step: Step) -> Networks:
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
    yield from adapt_all(network, [(Adaptation(ties=some) for some in chosen if some)])


def adapt_all(network: TracedNetwork, lists: Iterable[Iterable[Adaptation]]) -> Networks:
    for alternatives in lists:
        yield map(network.adapted, alternatives)


def _find_first_atom(network: TracedNetwork, group: int) -> int:
    """Return a group's first atom, which identifies it even if ties change its index."""
    unit = network.family.groups[group].units[0]
    return int(np.flatnonzero(network.family.units.of_atom == unit)[0])


def _list_ties(network: TracedNetwork, groups: Iterable[int]) -> Iterator[Adaptation]:
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
    yield from _list_squares(network, wanted, [1])


def _list_squares(
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
