"""Which units the indices of a network's tensors belong to."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.models.architecture import Architecture
from nsopt.pruning.fitting.products import Convolution, Product
from nsopt.scaling.cost import IntArray
from nsopt.tracing.originals import tensors_of

# Per axis: the group of each index, -1 for none; its unit.
Axes = Sequence[tuple[IntArray, IntArray]]
Units = Mapping[str, Axes]  # by tensor


def find_units(arch: Architecture, model: nn.Module) -> Units:
    """Return which unit each index belongs to.

    Args:
        model: a network of base widths.
    """
    units = {
        name: [(np.full(size, -1), np.zeros(size, np.int64)) for size in tensor.shape]
        for name, tensor in tensors_of(model).items()
    }
    family = arch.retrace(model).family
    place = np.zeros(len(family.units.fixed), np.int64)
    for group in family.groups:
        place[group.units] = np.arange(len(group.units))
    for dimension in family.dimensions:
        if dimension.tensor in units:
            numbers = family.units.of_atom[dimension.atoms]
            units[dimension.tensor][dimension.axis] = family.group_of_unit[numbers], place[numbers]
    return units


def find_kept(
    view: Tensor, whole: Tensor, axis: int, units: Axes, kept: Sequence[Tensor]
) -> Tensor:
    """Return which indices of a view's axis are left in a cut network, ascending.

    Args:
        view: the weight of a product in the trained network.
        whole: the parameter of which it is a view.
        units: of its axes; see `find_units`.
        kept: per group, the units that are left.
    """
    left = np.ones(view.shape[axis], bool)
    for own, index in _locate(view, whole, axis):
        groups, numbers = (array[index] for array in units[own])
        for group in np.unique(groups[groups >= 0]).tolist():
            left &= (groups != group) | np.isin(numbers, kept[group].cpu().numpy())
    return torch.from_numpy(np.flatnonzero(left))


def find_units_read(
    product: Product, whole: Tensor, units: Axes, widths: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """Yield the groups that a product reads all units of, and the inputs of each, (U, taps).

    Args:
        product: the product in the trained network; not a grouped convolution.
        whole: the parameter of which its weight is a view.
        units: of its axes; see `find_units`.
        widths: of the groups.
    """
    axis, taps = -2, 1
    if isinstance(product, Convolution):
        axis, taps = 1 - int(product.transposed), product.weight[0, 0].numel()
    axes = _locate(product.weight, whole, axis)
    if len(axes) != 1:
        return
    ((axis, index),) = axes
    groups, numbers = (array[index] for array in units[axis])
    for group in np.unique(groups[groups >= 0]).tolist():
        (places,) = np.nonzero(groups == group)
        ordered = places[np.argsort(numbers[places], kind="stable")]
        counts = np.bincount(numbers[places], minlength=widths[group])
        if (counts == counts[0]).all():
            first = torch.from_numpy(ordered.reshape(len(counts), -1)) * taps
            yield group, (first[:, :, None] + torch.arange(taps)).flatten(1)


def _locate(view: Tensor, whole: Tensor, axis: int) -> list[tuple[int, IntArray]]:
    """Return the axes of `whole` along which `view` moves along its own axis, and the indices."""
    size, whole_size = view.element_size(), whole.element_size()  # of real parts of complex ones
    strides = [stride * whole_size for stride in whole.stride()]
    rest: IntArray = np.arange(view.shape[axis]) * view.stride()[axis] * size
    rest += int(view.storage_offset() * size - whole.storage_offset() * whole_size)
    axes = []
    for own in sorted(range(whole.ndim), key=lambda own: -strides[own]):
        if whole.shape[own] > 1:
            index, rest = np.divmod(rest, strides[own])
            if len(np.unique(index)) > 1:
                axes.append((own, index))
    return axes
