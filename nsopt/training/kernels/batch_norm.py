"""BatchNorm for channels-last tensors with any number of channels (kernels/folding.py)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nsopt.training.kernels.folding import (
    find_fold,
    fold_rows,
    join_sums,
    sum_channels,
    unfold_rows,
)

_aten = torch.ops.aten


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d, faster in training if C is not a multiple of 16.

    Then the variance has a relative error of epsilon * (mean / deviation)^2, because one pass sums
    the squares of differences from the running mean.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Module's name)
        exact = self.weight.dtype in (torch.float32, torch.float64)
        fold = find_fold(input) if self.training and exact else None
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
    """Normalises folded tensors by the statistics of the batch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, pivot: Tensor, eps: float, fold: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = fold_rows(x, fold)
        count = x.numel() // len(weight)
        about_pivot, total = sum_channels(rows, rows, fold, pivot)
        mean = total / count
        variance = (about_pivot / count - (mean - pivot) * mean).clamp(min=0)
        output = torch.empty_like(x)  # not a view: later modules may change it in place
        _affine(rows, (weight, bias, mean, variance), eps, fold, fold_rows(output, fold))
        ctx.save_for_backward(rows, weight, mean, variance)
        ctx.eps, ctx.fold, ctx.count = eps, fold, count
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, variance = ctx.saved_tensors
        fold, count = ctx.fold, ctx.count
        g = fold_rows(gradients[0], fold)
        # g * weight / sigma, with constant statistics, and the sums for its correction.
        parameters = torch.stack([weight, mean, variance]).repeat(1, fold)
        grad, weight_parts, bias_parts = _aten.native_batch_norm_backward(
            g, rows, *parameters, None, None, False, ctx.eps, [True, True, True]
        )
        grad_weight, grad_bias = join_sums(weight_parts, fold), join_sums(bias_parts, fold)
        scale = weight * torch.rsqrt(variance + ctx.eps) / count
        correction = torch.empty_like(rows)
        slopes = -scale * grad_weight, -scale * grad_bias
        _affine(rows, (*slopes, mean, variance), ctx.eps, fold, correction)
        grad.add_(correction)
        return unfold_rows(grad, gradients[0]), grad_weight, grad_bias, None, None, None


def _affine(
    rows: Tensor, by_channel: tuple[Tensor, ...], eps: float, fold: int, out: Tensor
) -> None:
    """Write weight * (rows - mean) / sqrt(variance + eps) + bias to `out`.

    Args:
        by_channel: weight, bias, mean and variance, (C,) each.
    """
    parameters = torch.stack(by_channel).repeat(1, fold)
    unused = parameters.new_empty(0)
    _aten.native_batch_norm.out(
        rows, *parameters, False, 0.0, eps, out=out, save_mean=unused, save_invstd=unused
    )
