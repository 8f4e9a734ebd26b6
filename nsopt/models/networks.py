"""Checks of what users give for a network, and the memory layout of its weights and inputs.

Channels last is faster on all devices, but not every network runs with it: `x.view(x.size(0), -1)`
needs channels first. So do convolutions of k x 1 with a large k on the CPU: of maps of one column
with channels last oneDNN (PyTorch 2.13) computes some wrongly, from k = 32 on with AVX-512.
"""

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from nsopt.errors import NsoptError, shorten
from nsopt.inputs import call_network, tensors_in
from nsopt.scaling.cost import IntArray, Widths
from nsopt.tracing.originals import copy_model
from nsopt.tracing.states import keep_random_numbers

Kept = Sequence[Sequence[int] | NDArray[Any] | Tensor]  # per group
LONGEST_KERNEL = 7  # longer sides of kernels are not trusted to oneDNN; from 16 on it was wrong
_IMAGES = 4  # dimensions of images and of convolution weights


def read_widths(name: str, count: int, widths: Widths) -> tuple[int, ...]:
    """Return `widths` as a tuple of ints.

    Raises NsoptError unless they are `count` integers of at least 1.
    """
    try:
        integers, given = tuple(map(int, widths)), tuple(widths)
    except (TypeError, ValueError, OverflowError):
        raise NsoptError(f"widths must be a list of integers, not {shorten(widths)}") from None
    if len(integers) != count:
        raise NsoptError(
            f"{name} has {count} widths, got {len(integers)}: give one for each layer name"
        )
    if integers != given or min(integers) < 1:
        raise NsoptError(f"widths must be integers of at least 1, got {given}")
    return integers


def read_kept(
    name: str, layers: Sequence[str], widths: Sequence[int], kept: Kept
) -> list[IntArray]:
    """Return the units to keep of a network of `widths` as indices.

    Raises NsoptError for invalid ones.
    """
    given = len(kept) if isinstance(kept, Sized) else shorten(kept)
    if given != len(layers):
        raise NsoptError(
            f"{name} has {len(layers)} groups, got {given}: give one for each layer name"
        )
    return [_read_indices(*group) for group in zip(layers, widths, kept, strict=True)]


def _read_indices(name: str, width: int, units: Sequence[int] | NDArray[Any] | Tensor) -> IntArray:
    array = np.asarray(units.cpu() if isinstance(units, Tensor) else units)
    if array.dtype == np.bool_ and array.shape == (width,):
        array = np.flatnonzero(array)
    if not array.size:
        raise NsoptError(f"give at least one unit of {name}")
    if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
        indices: IntArray = array.astype(np.int64)
        if indices[0] >= 0 and indices[-1] < width and (np.diff(indices) > 0).all():
            return indices
    raise NsoptError(
        f"the units to keep of {name} must be ascending integers below {width}, or a mask of "
        f"{width} booleans"
    )


def check_room(layers: Sequence[str], chosen: Sequence[IntArray], widths: Sequence[int]) -> None:
    """Raise NsoptError if a network of `widths` has no room for the chosen units."""
    for name, indices, width in zip(layers, chosen, widths, strict=True):
        if len(indices) > width:
            raise NsoptError(f"give at most {width} units of {name}, got {len(indices)}")


def check_has_weights(model: nn.Module) -> None:
    """Raise NsoptError if tensors have no values: lazy modules, or the meta device."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            raise NsoptError(f"{name} of the model has no values: give a network with its weights")


def check_finite(model: nn.Module, origin: str) -> None:
    """Raise NsoptError if a weight is NaN or infinite, or a buffer NaN; masks may be infinite."""
    weights = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):  # a module may add anything
            continue
        if tensor.isnan().any() or (name in weights and tensor.isinf().any()):
            raise NsoptError(
                f"{name} of {origin} has values that are NaN or infinite: give weights of a "
                "training that ended well"
            )


def best_layout(model: nn.Module, inputs: Any) -> torch.memory_format:
    """Return channels last if `model` runs with it on `inputs`, in evaluation and in training."""
    tensors = [*model.parameters(), *model.buffers(), *tensors_in(inputs)]
    kernels = [module.kernel_size for module in model.modules() if isinstance(module, nn.Conv2d)]
    is_long = any(height > LONGEST_KERNEL and width == 1 for height, width in kernels)
    if is_long or not any(tensor.ndim == _IMAGES for tensor in tensors):
        return torch.contiguous_format
    tried = lay_out(copy_model(model), torch.channels_last)
    inputs = change_layout(tree_map_only(Tensor, Tensor.clone, inputs), torch.channels_last)
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    with torch.random.fork_rng(devices), keep_random_numbers(), torch.no_grad():
        try:
            for training in (False, True):
                call_network(tried.train(training), inputs)
        except Exception:  # the code of the network may raise anything
            return torch.contiguous_format
    return torch.channels_last


def layout_of(model: nn.Module) -> torch.memory_format:
    """Return the layout of the weights of `model`; channels first if both layouts are equal."""
    for weight in model.parameters():
        if weight.ndim == _IMAGES and not weight.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format


def lay_out(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Change the layout of the four-dimensional tensors of `model`, in place; return it."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = change_layout(tensor.data, layout)
    return model


def change_layout(tensors: Any, layout: torch.memory_format) -> Any:
    """Change the layout of all four-dimensional tensors in a nest of tensors."""

    def change(tensor: Tensor) -> Tensor:
        is_image = tensor.ndim == _IMAGES and tensor.layout == torch.strided
        return tensor.to(memory_format=layout) if is_image else tensor

    return tree_map_only(Tensor, change, tensors)


def inputs_for(model: nn.Module, inputs: Any) -> Any:
    """Return a copy of `inputs`, which `model` may change, in the layout of its weights."""
    layout = layout_of(model)
    copies = tree_map_only(Tensor, Tensor.clone, inputs)
    return copies if layout == torch.channels_last else change_layout(copies, layout)
