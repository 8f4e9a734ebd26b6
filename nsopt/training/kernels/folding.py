"""Sums over the channels of channels-last tensors, whatever their number.

PyTorch's channels-last kernels for the CPU work on 16 channels at a time and are several times
slower where the number of channels C is no multiple of 16, as it is nearly everywhere in a pruned
network. Memory is a matrix of M = B*H*W rows and C columns; read as M/p rows and p*C columns it
is one with a multiple of 16 columns, whose sums, added in groups of p, are those of the channels.
It takes more calls, so that small tensors are left to PyTorch.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

_LANES = 16
_FEWEST_ROWS = 2**14
_aten = torch.ops.aten


def channel_dot(one: Tensor, other: Tensor) -> Tensor:
    """Sum over batch and space of `one * other`, both (B, C, H, W); float32 or wider, (C,)."""
    fold = fold_of(other)
    if fold is None:
        exact = torch.promote_types(other.dtype, torch.float32)
        return (one.to(exact) * other.to(exact)).sum(dim=(0, 2, 3))
    return sums(folded(one, fold), folded(other, fold), fold)[0]


def fold_of(x: Tensor) -> int | None:
    """Rows to join, so that the columns are a multiple of 16; None where x cannot be folded."""
    channels = x.shape[1]
    fold = _LANES // math.gcd(channels, _LANES)
    foldable = (
        x.device.type == "cpu"
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() >= _FEWEST_ROWS * channels
        and (x.numel() // channels) % fold == 0
    )
    return fold if foldable else None


def folded(x: Tensor, fold: int) -> Tensor:
    """(B, C, H, W) to (B*H*W/fold, fold*C, 1, 1), a view of channels-last memory."""
    rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return rows.reshape(-1, fold * x.shape[1], 1, 1)


def unfolded(rows: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def joined(parts: Tensor, fold: int) -> Tensor:
    """Sums of folded columns (fold*C,) to sums of channels (C,)."""
    return parts.view(fold, -1).sum(dim=0)


def sums(one: Tensor, other: Tensor, fold: int, pivot: Tensor | None = None) -> list[Tensor]:
    """Per channel, the sums of `one * (other - pivot)` and of `one`, in one pass."""
    ones, zeros = _constants(one.shape[1], torch.promote_types(one.dtype, torch.float32))
    centre = zeros if pivot is None else pivot.repeat(fold)
    _, product, total = _aten.native_batch_norm_backward(
        one, other, ones, centre, ones, None, None, False, 0.0, [False, True, True]
    )
    return [joined(product, fold), joined(total, fold)]


@lru_cache(maxsize=256)
def _constants(columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Ones and zeros; they are only read."""
    return torch.ones(columns, dtype=dtype), torch.zeros(columns, dtype=dtype)
