"""The parameters that make the units of a network, and those that scale them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from nsopt.models.tracing.groups import Group
from nsopt.models.tracing.labels import Atoms
from nsopt.models.tracing.network import TracedNetwork

Slices = tuple[str, int]  # a parameter, and the axis along which its slices belong to units
Made = tuple[Atoms, Slices]  # the channels that slices make or scale


@dataclass(frozen=True, eq=False)
class Makers:
    """Of trained parameters alone.

    holders: by dimension of the network, in the order of their use; vectors: those of which every
    slice is one number; products, norms: channels, with the dimensions that make or scale them.
    """

    holders: dict[int, Slices]
    vectors: frozenset[Slices]
    products: list[tuple[Atoms, set[int]]]
    norms: list[tuple[Atoms, set[int]]]

    @classmethod
    def of(cls, network: TracedNetwork) -> Self:
        named = network.template.named_parameters()
        trained = {name: parameter for name, parameter in named if parameter.requires_grad}
        holders = {
            index: (dimension.tensor, dimension.axis)
            for index, dimension in network.dimensions_in_order
            if dimension.tensor in trained
        }
        vectors = {
            s for s in holders.values() if trained[s[0]].numel() == trained[s[0]].shape[s[1]]
        }

        def placed(pairs: Iterable[tuple[Atoms, Atoms]]) -> list[tuple[Atoms, set[int]]]:
            seen = {(one.tobytes(), other.tobytes()): (one, other) for one, other in pairs}
            return [(one, network.dimensions_of(other)) for one, other in seen.values()]

        trace = network.trace
        products = placed((label, label) for label in trace.makers)
        return cls(holders, frozenset(vectors), products, placed(trace.norms))

    def holding(self, group: Group) -> list[Slices]:
        """Return the slices that have the units of a group, vectors last."""
        own = [s for index, s in self.holders.items() if index in group.per_dimension]
        return sorted(own, key=self.vectors.__contains__)

    def making(self, group: Group) -> list[Made]:
        """Return the products that make the units of a group."""
        return self._of_group(group, self.products)

    def scaling(self, group: Group) -> list[Made]:
        """Return the norms that scale the units of a group."""
        return self._of_group(group, self.norms)

    def first(self, group: Group) -> list[Slices]:
        """The products that make the units of a group; where none does, what first holds them."""
        return [slices for _, slices in self.making(group)] or self.holding(group)[:1]

    def _of_group(self, group: Group, found: list[tuple[Atoms, set[int]]]) -> list[Made]:
        return [
            (channels, self.holders[index])
            for channels, dimensions in found
            for index in sorted(dimensions & group.per_dimension.keys() & self.holders.keys())
        ]
