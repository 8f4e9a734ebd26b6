"""BatchNorm for channels-last tensors with any number of channels.

PyTorch's channels-last kernels for the CPU work on 16 channels at a time and are several times
slower where the number of channels C is no multiple of 16, as it is nearly everywhere in a pruned
network. Memory is a matrix of M = B*H*W rows and C columns; read as M/p rows and p*C columns it
is one with a multiple of 16 columns, whose sums, added in groups of p, are those of the channels.
It takes more calls, so that small tensors are left to PyTorch.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_LANES = 16
_FEWEST_ROWS = 2**14
_aten = torch.ops.aten


def channel_dot(one: Tensor, other: Tensor) -> Tensor:
    """Sum over batch and space of `one * other`, both (B, C, H, W); float32 or wider, (C,)."""
    fold = _fold_of(other)
    if fold is None:
        exact = torch.promote_types(other.dtype, torch.float32)
        return (one.to(exact) * other.to(exact)).sum(dim=(0, 2, 3))
    return _sums(_folded(one, fold), _folded(other, fold), fold)[0]


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d, faster in training where C is no multiple of 16.

    Then the variance has a relative error of epsilon * (mean / deviation)^2: sums of squares are
    taken in one pass, about the running mean.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Module's name)
        fold = _fold_of(input) if self.training else None
        if fold is None or fold == 1:
            return super().forward(input)
        output: Tensor
        output, mean, variance = _FoldedNorm.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.running_mean, self.eps, fold
        )
        self._update_running_statistics(mean, variance, input.numel() // len(mean))
        return output

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        self.num_batches_tracked.add_(1)


class _FoldedNorm(torch.autograd.Function):
    """Normalisation by the statistics of the batch, on folded tensors."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, pivot: Tensor, eps: float, fold: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = _folded(x, fold)
        count = x.numel() // len(weight)
        about_pivot, total = _sums(rows, rows, fold, pivot)
        mean = total / count
        variance = (about_pivot / count - (mean - pivot) * mean).clamp(min=0)
        output = _affine(rows, weight, bias, mean, variance, eps, fold)
        ctx.save_for_backward(rows, weight, mean, variance)
        ctx.eps, ctx.fold, ctx.count = eps, fold, count
        ctx.mark_non_differentiable(mean, variance)
        return _unfolded(output, x), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, variance = ctx.saved_tensors
        fold, count = ctx.fold, ctx.count
        g = _folded(gradients[0], fold)
        # As if the statistics were constants: g * weight / sigma, and the sums that correct it.
        folded = torch.stack([weight, mean, variance]).repeat(1, fold)
        grad, weight_parts, bias_parts = _aten.native_batch_norm_backward(
            g, rows, *folded, None, None, False, ctx.eps, [True, True, True]
        )
        grad_weight, grad_bias = _joined(weight_parts, fold), _joined(bias_parts, fold)
        scale = weight * torch.rsqrt(variance + ctx.eps) / count
        correction = _affine(
            rows, -scale * grad_weight, -scale * grad_bias, mean, variance, ctx.eps, fold
        )
        grad.add_(correction)
        return _unfolded(grad, gradients[0]), grad_weight, grad_bias, None, None, None


def _fold_of(x: Tensor) -> int | None:
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


def _folded(x: Tensor, fold: int) -> Tensor:
    """(B, C, H, W) to (B*H*W/fold, fold*C, 1, 1), a view of channels-last memory."""
    rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return rows.reshape(-1, fold * x.shape[1], 1, 1)


def _unfolded(rows: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _joined(parts: Tensor, fold: int) -> Tensor:
    """Sums of folded columns (fold*C,) to sums of channels (C,)."""
    return parts.view(fold, -1).sum(dim=0)


def _sums(one: Tensor, other: Tensor, fold: int, pivot: Tensor | None = None) -> list[Tensor]:
    """Per channel, the sums of `one * (other - pivot)` and of `one`, in one pass."""
    ones, zeros = _constants(one.shape[1], torch.promote_types(one.dtype, torch.float32))
    centre = zeros if pivot is None else pivot.repeat(fold)
    _, product, total = _aten.native_batch_norm_backward(
        one, other, ones, centre, ones, None, None, False, 0.0, [False, True, True]
    )
    return [_joined(product, fold), _joined(total, fold)]


def _affine(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    fold: int,
) -> Tensor:
    """weight * (rows - mean) / sqrt(variance + eps) + bias, parameters per channel."""
    folded = torch.stack([weight, bias, mean, variance]).repeat(1, fold)
    output: Tensor = _aten.native_batch_norm(rows, *folded, False, 0.0, eps)[0]
    return output


@lru_cache(maxsize=256)
def _constants(columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Ones and zeros; they are only read."""
    return torch.ones(columns, dtype=dtype), torch.zeros(columns, dtype=dtype)
