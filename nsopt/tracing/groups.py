"""Turn a trace into groups of units, whose numbers are the widths of a network.

A *unit* is a set of atoms that are joined, directly or through other atoms: for instance a filter
of a convolution, the entries of the norm after it, and the inputs that read its channel. A *group*
contains all units that occur in the same dimensions of the same tensors, equally often. Its *width*
is the number of its units. Every size in the network is then a constant plus integers times widths.
(The groups of a grouped convolution are something else, and are always called by this full name.)
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from nsopt.scaling.cost import IntArray
from nsopt.tracing.labels import Atoms, Frozen, Labels, Trace

_LATE = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Dimension:
    """One dimension of a parameter or buffer, with its atoms."""

    tensor: str
    axis: int
    atoms: Atoms


@dataclass(frozen=True, eq=False)
class Group:
    """Units that share one width.

    Attributes:
        units: indices of the units, in the order of their first atoms.
        per_dimension: how many atoms each unit has in a dimension, by the dimension's index.
        exact: whether removing a unit gives the same result as setting it to zero.
        rigid: whether the group is a single unit of several parts, as after a channel shuffle.
            nsopt can build networks with fewer or more parts, but pruning cannot remove one part.
        width: number of units, or of the parts of a rigid group.
    """

    units: Atoms
    per_dimension: Mapping[int, int]
    exact: bool
    rigid: bool
    width: int

    def describe(self) -> str:
        """Return how many units there are, and what limits their removal."""
        channels = next(iter(self.per_dimension.values()))
        parts = [f"{self.width} units" + (f" of {channels} channels" if channels > 1 else "")]
        if self.rigid:
            parts.append("cannot be removed one by one")
        if not self.exact:
            parts.append("removing one may differ from setting it to zero")
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Units:
    """All atoms, divided into U units.

    Attributes:
        of_atom: the unit of every atom, shape (atoms,).
        fixed: whether a unit must stay, (U,).
        inexact: whether removing a unit differs from setting it to zero, (U,).
    """

    of_atom: Atoms
    fixed: NDArray[np.bool_]
    inexact: NDArray[np.bool_]

    @classmethod
    def of(cls, trace: Trace) -> "Units":
        pairs = [np.stack(edge, axis=1) for edge in trace.edges]
        of_atom = tie(trace.count, np.concatenate([np.zeros((0, 2), np.int64), *pairs]))
        none = np.zeros(of_atom.max(initial=-1) + 1, np.bool_)
        frozen, inexact = [frozen.atoms for frozen in trace.frozen], trace.inexact
        return cls(of_atom, none, none).marked(
            *([of_atom[a] for a in s] for s in (frozen, inexact))
        )

    def new_trace(self) -> Trace:
        """Return an empty record for another run on these labels, which knows what is fixed."""
        fixed = np.flatnonzero(self.fixed[self.of_atom])
        return Trace(count=len(self.of_atom), frozen=[Frozen(fixed, "is fixed", "")])

    def name_by(self, labels: Mapping[str, Labels]) -> dict[str, Labels]:
        """Return labels with the first atom of each unit in place of all its atoms.

        With them, another run splits dimensions as these units do, even if their sizes next to the
        examples suggest otherwise: a dimension of heads has equal atoms in every row.
        """
        first = np.unique(self.of_atom, return_index=True)[1][self.of_atom]
        return {
            name: tuple(first[label] if isinstance(label, np.ndarray) else None for label in axes)
            for name, axes in labels.items()
        }

    def marked(self, fixed: Iterable[Atoms] = (), inexact: Iterable[Atoms] = ()) -> "Units":
        """Return a copy in which these units are fixed, or inexact, too."""
        marks = self.fixed.copy(), self.inexact.copy()
        for mark, units in zip(marks, (fixed, inexact), strict=True):
            mark[np.concatenate([np.zeros(0, np.int64), *units])] = True
        return Units(self.of_atom, *marks)


@dataclass(frozen=True, eq=False)
class Family:
    """The groups of a network, and the sizes of its tensors as functions of the widths.

    Attributes:
        dimensions: all dimensions of parameters and buffers with more than one index.
        units: the units of all atoms.
        groups: in the order in which the network uses them.
    """

    dimensions: tuple[Dimension, ...]
    units: Units
    groups: tuple[Group, ...]

    @classmethod
    def of(
        cls, dimensions: tuple[Dimension, ...], units: Units, order: Mapping[str, int]
    ) -> "Family":
        """Return the family of these units.

        Args:
            dimensions: all dimensions of parameters and buffers.
            units: the units of their atoms.
            order: when the network first uses each tensor, by its name.
        """
        ranks = [(order.get(d.tensor, _LATE), d.axis) for d in dimensions]
        groups = sorted(
            _make_groups(dimensions, units),
            key=lambda group: (min(ranks[d] for d in group.per_dimension), int(group.units[0])),
        )
        return cls(dimensions, units, tuple(groups))

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(group.width for group in self.groups)

    @cached_property
    def group_of_unit(self) -> Atoms:
        """The group of every unit, (U,); -1 for units that must stay."""
        return _find_owners(len(self.units.fixed), (group.units for group in self.groups))

    @cached_property
    def dimension_indices(self) -> dict[tuple[str, int], int]:
        """The index of each dimension, by tensor and axis."""
        return {(d.tensor, d.axis): i for i, d in enumerate(self.dimensions)}

    @cached_property
    def factors(self) -> Atoms:
        """How many indices of a dimension one unit of a group has, (dimensions, groups)."""
        result = np.zeros((len(self.dimensions), len(self.groups)), np.int64)
        for index, group in enumerate(self.groups):
            for d, count in group.per_dimension.items():
                result[d, index] = count
        return result

    @cached_property
    def constants(self) -> Atoms:
        """How many indices of a dimension belong to no group, (dimensions,)."""
        sizes = np.array([len(dimension.atoms) for dimension in self.dimensions])
        return sizes - self.factors @ np.array(self.widths, np.int64)

    @cached_property
    def single(self) -> NDArray[np.bool_]:
        """Whether all indices of a dimension belong to one group, (dimensions,)."""
        return np.asarray(((self.factors > 0).sum(axis=1) == 1) & (self.constants == 0))

    def sizes(self, widths: Atoms) -> Atoms:
        """Return the size of every dimension (dimensions,) in a network of `widths` (groups,)."""
        return self.factors @ widths + self.constants

    def count(self, atoms: Atoms) -> tuple[Atoms, int]:
        """Return the length of a label in terms of the widths: factors (groups,), and a constant.

        Atoms that a later run created belong to no group.
        """
        known = atoms[atoms < len(self.units.of_atom)]
        groups = self.group_of_unit[self.units.of_atom[known]]
        widths = np.array(self.widths, np.int64)
        counts = np.bincount(groups[groups >= 0], minlength=len(self.groups))
        return counts // np.maximum(widths, 1), len(atoms) - int((groups >= 0).sum())

    def count_free(self, held: Container[str] = (), left: int = 0) -> int:
        """Return how many indices can be removed if `left` units of each group stay.

        Those of the tensors `held` do not count.
        """
        free = self.factors @ (np.array(self.widths, np.int64) - left)
        return sum(free[i] for i, d in enumerate(self.dimensions) if d.tensor not in held)

    @cached_property
    def _dimension_of_atom(self) -> Atoms:
        return _find_owners(len(self.units.of_atom), (d.atoms for d in self.dimensions))

    def dimensions_of(self, atoms: Atoms) -> set[int]:
        """Return the indices of the dimensions that contain any of these atoms."""
        indices = self._dimension_of_atom[atoms[atoms < len(self.units.of_atom)]]
        return set(np.unique(indices[indices >= 0]).tolist())

    def groups_at(self, axes: Iterable[tuple[str, int]]) -> set[int]:
        """Return the groups of dimensions, given as the names of tensors and axes."""
        dimensions = [self.dimensions[self.dimension_indices[axis]] for axis in axes]
        return self.groups_of([dimension.atoms for dimension in dimensions])

    def groups_of(self, labels: Sequence[Atoms]) -> set[int]:
        """Return the groups that have any of these atoms; -1 is among them if some must stay."""
        atoms = np.unique(np.concatenate([np.zeros(0, np.int64), *(a.ravel() for a in labels)]))
        return set(self.group_of_unit[self.units.of_atom[atoms]].tolist())

    def find_indices(self, dimension: int, group: int) -> NDArray[np.bool_]:
        """Return which indices of a dimension belong to a group."""
        atoms = self.dimensions[dimension].atoms
        return np.asarray(self.group_of_unit[self.units.of_atom[atoms]] == group)

    def find_alive(self, kept: list[Atoms]) -> NDArray[np.bool_]:
        """Return whether each unit remains, (U,), if each group has the `kept` ones.

        The single unit of a rigid group always does.
        """
        alive = np.ones(len(self.units.fixed), np.bool_)
        for group, indices in zip(self.groups, kept, strict=True):
            if not group.rigid:
                alive[group.units] = False
                alive[group.units[indices]] = True
        return alive


def _find_owners(count: int, members: Iterable[Atoms]) -> Atoms:
    """Return for each of `count` numbers the index of the members among which it is, else -1."""
    result = np.full(count, -1)
    for index, some in enumerate(members):
        result[some] = index
    return result


def _make_groups(dimensions: tuple[Dimension, ...], units: Units) -> list[Group]:
    """Group the units that are not fixed by how often they occur in each dimension."""
    of_index = np.concatenate([units.of_atom[dimension.atoms] for dimension in dimensions])
    atoms = np.concatenate([dimension.atoms for dimension in dimensions])
    where = np.repeat(np.arange(len(dimensions)), [len(d.atoms) for d in dimensions])
    shape = (len(units.fixed), len(dimensions))
    counts = coo_matrix((np.ones(len(where), np.int64), (of_index, where)), shape).tocsr()
    counts.sum_duplicates()
    counts.sort_indices()
    first = np.full(len(units.fixed), _LATE)
    np.minimum.at(first, of_index, atoms)
    free = np.unique(of_index[~units.fixed[of_index]])
    # Units in the same dimensions, equally often, have the same sum of random numbers.
    drawn = np.random.default_rng(0).integers(np.iinfo(np.int64).max, size=shape[1])
    _, group, sizes = np.unique((counts @ drawn)[free], return_inverse=True, return_counts=True)
    result = []
    for members in np.split(free[np.argsort(group, kind="stable")], np.cumsum(sizes))[:-1]:
        row = slice(*counts.indptr[members[0] : members[0] + 2])
        in_row = zip(counts.indices[row].tolist(), counts.data[row].tolist(), strict=True)
        result.append(_make_group(dict(in_row), members[np.argsort(first[members])], units))
    return result


def _make_group(per_dimension: dict[int, int], members: Atoms, units: Units) -> Group:
    parts = int(np.gcd.reduce(list(per_dimension.values())))
    rigid = len(members) == 1 and parts > 1
    return Group(
        units=members,
        per_dimension={d: n // parts if rigid else n for d, n in per_dimension.items()},
        exact=not units.inexact[members].any(),
        rigid=rigid,
        width=parts if rigid else len(members),
    )


def tie(count: int, pairs: ArrayLike) -> IntArray:
    """Return the groups of `count` layers, (count,), of which pairs (P, 2) share a width."""
    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(one), np.int8), (one, other)), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)
