"""Cut a network, and find which outputs of its products are left."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.models.architecture import Architecture, TableArchitecture
from nsopt.models.layers import list_indices
from nsopt.models.tracing.architecture import TracedArchitecture
from nsopt.pruning.fitting.products import Convolution, Product
from nsopt.scaling.cost import Channels, IntArray

Indices = Mapping[str, Sequence[IntArray]]  # by tensor, what is left of each axis


def cut_network(
    arch: Architecture, model: nn.Module, kept: Sequence[Tensor]
) -> tuple[nn.Module, Indices]:
    """Return a copy of `model` with only the kept units, and the indices left in its weights.

    Args:
        arch: the architecture of `model`.
        model: a network of base widths.
        kept: per group, ascending indices of the units to keep.

    Raises:
        NsoptError: if a network of these units does not run.
    """
    if isinstance(arch, TracedArchitecture):
        network = arch.network.retrace(model)
        return arch.prune(model, kept), network.indices([units.numpy() for units in kept])
    assert isinstance(arch, TableArchitecture)
    kept = [units.to(next(model.parameters()).device) for units in kept]
    smaller = arch.inherit(model, kept, [len(units) for units in kept])

    def left(channels: Channels, count: int) -> IntArray:
        found = list_indices(channels, kept)
        return np.arange(count) if isinstance(found, slice) else found.cpu().numpy()

    indices, modules = {}, dict(model.named_modules())
    for operation in arch.operations:
        weight = getattr(modules.get(operation.name), "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1:
            axes = [np.arange(size) for size in weight.shape]
            axes[0] = left(operation.outputs, len(weight))
            if operation.kind != "depthwise":
                axes[1] = left(operation.inputs, weight.shape[1])
            indices[f"{operation.name}.weight"] = axes
    return smaller, indices


def find_kept_outputs(
    large: Product, small: Product, whole: Tensor, cut: Tensor, axes: Sequence[IntArray]
) -> Tensor | None:
    """Return which outputs of a product are left in the cut network; None if unknown.

    Args:
        large: the product in the whole network.
        small: the same product in the cut one.
        whole: the parameter of which the weight of `large` is a view.
        cut: that of `small`.
        axes: which indices of `whole` are left in `cut`.
    """
    if isinstance(large, Convolution):
        axis = int(large.transposed and large.groups == 1)
        if large.weight.shape == whole.shape:
            return torch.from_numpy(axes[axis])
        return None
    outputs: IntArray = np.arange(small.weight.shape[-1])
    places: IntArray = _offset(small.weight, cut) + outputs * small.weight.stride()[-1]
    there: IntArray = np.zeros_like(places)
    for index, left, stride in zip(_unravel(places, cut), axes, whole.stride(), strict=True):
        there += left[index] * stride
    inside, step = large.weight.stride()[-2:]
    there -= _offset(large.weight, whole)
    found = there // step if step >= inside else there % inside // step
    if large.weight.shape[-1] == 1:
        found = np.zeros_like(there)
    within = (found >= 0) & (found < large.weight.shape[-1])
    return torch.from_numpy(found) if within.all() else None


def _offset(view: Tensor, whole: Tensor) -> int:
    return int(view.storage_offset() - whole.storage_offset())


def _unravel(places: IntArray, tensor: Tensor) -> list[IntArray]:
    """Return the index along each axis of the numbers at these places in memory."""
    found = [np.zeros_like(places)] * tensor.ndim
    rest = places
    strides = tensor.stride()
    for axis in sorted(range(tensor.ndim), key=lambda axis: -strides[axis]):
        if tensor.shape[axis] > 1:
            found[axis], rest = np.divmod(rest, strides[axis])
    return found
