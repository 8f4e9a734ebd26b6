"""Fast sums per channel of channels-last tensors with any number of channels.

PyTorch's channels-last CPU kernels work on 16 channels at a time. They are several times slower if
the number of channels C is not a multiple of 16, as in most layers of a pruned network. Memory is a
matrix of M = B*H*W rows and C columns. Read as M/p rows and p*C columns, it has a multiple of 16
columns, whose sums in groups of p are those of the channels. This takes more calls, so PyTorch
handles small tensors.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

_LANES = 16
_FEWEST_ROWS = 2**14
_aten = torch.ops.aten


def channel_dot(one: Tensor, other: Tensor) -> Tensor:
    """Sum `one * other`, both (B, C, H, W), over batch and space; float32 or wider, (C,)."""
    fold = find_fold(other)
    if fold is None:
        exact = torch.promote_types(other.dtype, torch.float32)
        return (one.to(exact) * other.to(exact)).sum(dim=(0, 2, 3))
    return sum_channels(fold_rows(one, fold), fold_rows(other, fold), fold)[0]


def find_fold(x: Tensor) -> int | None:
    """Return how many rows to join for a multiple of 16 columns; None if x cannot be folded."""
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


def fold_rows(x: Tensor, fold: int) -> Tensor:
    """View channels-last memory (B, C, H, W) as (B*H*W/fold, fold*C, 1, 1)."""
    rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return rows.reshape(-1, fold * x.shape[1], 1, 1)


def unfold_rows(rows: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def join_sums(parts: Tensor, fold: int) -> Tensor:
    """Add sums of folded columns (fold*C,) to sums of channels (C,)."""
    return parts.view(fold, -1).sum(dim=0)


def sum_channels(
    one: Tensor, other: Tensor, fold: int, pivot: Tensor | None = None
) -> list[Tensor]:
    """Return the sums of `one * (other - pivot)` and of `one` per channel, in one pass."""
    ones, zeros = _constants(one.shape[1], torch.promote_types(one.dtype, torch.float32))
    centre = zeros if pivot is None else pivot.repeat(fold)
    _, product, total = _aten.native_batch_norm_backward(
        one, other, ones, centre, ones, None, None, False, 0.0, [False, True, True]
    )
    return [join_sums(product, fold), join_sums(total, fold)]


@lru_cache(maxsize=256)
def _constants(columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return ones and zeros, which are only read."""
    return torch.ones(columns, dtype=dtype), torch.zeros(columns, dtype=dtype)
