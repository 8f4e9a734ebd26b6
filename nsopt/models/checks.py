"""Check what users give: widths, units to keep, and weights."""

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nsopt.errors import NsoptError, shorten
from nsopt.scaling.cost import IntArray, Widths

Kept = Sequence[Sequence[int] | NDArray[Any] | Tensor]  # per group


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
