"""Find the parameters that make the units of a network, and the parameters that scale them.

A *maker* is a parameter whose product with the input makes channels, such as the weight of a
convolution. Each unit owns some *slices* of the parameter along one axis.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.tracing.groups import Group
from nsopt.tracing.labels import Atoms
from nsopt.tracing.network import TracedNetwork

Slices = tuple[str, int]  # a parameter, and the axis along which slices belong to units
Made = tuple[Atoms, Slices]  # channels, and the slices that make or scale them


@dataclass(frozen=True, eq=False)
class Makers:
    """The parameters behind all units. Only parameters that require gradients count.

    Attributes:
        holders: slices by the index of their dimension, in the order of their first use.
        vectors: slices of vectors, such as a bias or the scale of a norm.
        products: pairs of channels and the indices of the dimensions that make them.
        norms: pairs of channels and the indices of the dimensions of the norm that scales them.
        plain: channels of norms that have no scale, or a frozen one.
    """

    holders: dict[int, Slices]
    vectors: frozenset[Slices]
    products: list[tuple[Atoms, set[int]]]
    norms: list[tuple[Atoms, set[int]]]
    plain: list[Atoms]

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

        def find_dimensions(pairs: Iterable[tuple[Atoms, Atoms]]) -> list[tuple[Atoms, set[int]]]:
            pairs_by_atoms = {
                (made.tobytes(), scale.tobytes()): (made, scale) for made, scale in pairs
            }
            return [
                (made, network.family.dimensions_of(scale))
                for made, scale in pairs_by_atoms.values()
            ]

        trace = network.trace
        products = find_dimensions((label, label) for label in trace.makers)
        norms = find_dimensions(trace.norms)
        frozen = [channels for channels, scales in norms if not scales & holders.keys()]
        plain = [*trace.plain_norms.values(), *frozen]
        return cls(holders, frozenset(vectors), products, norms, plain)

    def is_plain(self, channels: Atoms) -> bool:
        """Return whether a norm without a trained scale normalises all these channels."""
        return any(np.isin(channels, normalised).all() for normalised in self.plain)

    def find_holders(self, group: Group) -> list[Slices]:
        """Return all slices that belong to the units of a group, vectors last."""
        slices = [s for index, s in self.holders.items() if index in group.per_dimension]
        return sorted(slices, key=self.vectors.__contains__)

    def find_first(self, group: Group) -> list[Slices]:
        """Return the slices that make the units of a group, or else the first of its slices."""
        made = self.find_made(group, self.products)
        return [slices for _, slices in made] or self.find_holders(group)[:1]

    def find_made(self, group: Group, operations: list[tuple[Atoms, set[int]]]) -> list[Made]:
        """Return the slices of `products` or `norms` that make a group, with their channels."""
        return [
            (channels, self.holders[index])
            for channels, dimensions in operations
            for index in sorted(dimensions & group.per_dimension.keys() & self.holders.keys())
        ]


def unit_norms(network: TracedNetwork, model: nn.Module) -> list[Tensor]:
    """Return the L1 norms of each group's units, averaged over all slices that make a unit.

    Args:
        network: the trace of `model`.

    Returns:
        Per group, norms relative to the mean of their layer, float64 (w_l,).
    """
    makers, result = Makers.of(network), []
    for group in network.family.groups:
        of_unit, counted = torch.zeros(2, len(network.family.units.fixed), dtype=torch.float64)
        for name, axis in makers.find_first(group):
            label = network.labels[name][axis]
            assert isinstance(label, np.ndarray)
            units = torch.from_numpy(network.family.units.of_atom[label])
            norms = relative_norms(model.get_parameter(name), axis)
            of_unit.index_add_(0, units, norms)
            counted.index_add_(0, units, torch.ones_like(norms))
        result.append((of_unit / counted.clamp(min=1))[torch.from_numpy(group.units)])
    return result


def relative_norms(weight: Tensor, axis: int) -> Tensor:
    """Return L1 norms of a weight's slices along `axis`, divided by their mean: float64 (n,)."""
    slices = weight.detach().abs().movedim(axis, 0).reshape(weight.shape[axis], -1)
    norms = slices.sum(dim=1).cpu().double()
    return norms / norms.mean()
