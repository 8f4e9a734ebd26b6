"""Convolutions that avoid slow CPU kernels in training.

They compute the same as nn.Conv2d, and use it for evaluation, other devices and PyTorch's default
memory layout.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_SMALLEST_FAST = 3
_SAFE_INPUTS = 16


class Conv2d(nn.Conv2d):
    """A convolution that treats two cases differently from nn.Conv2d.

    3x3 on channels-last maps of at most 2x2 is one matrix product: most of the nine taps are in the
    padding, so it does less than half the work, and the gradient of the weights is 3 times faster.
    1x1 with a stride and few input channels selects its pixels first: in channels-last maps the
    gradient of oneDNN's weights writes beyond its memory if there are fewer channels than a block,
    16 with AVX-512 and 8 with AVX2 (PyTorch 2.13, uxlfoundation/oneDNN 6035).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Module's name)
        if self.training and input.device.type == "cpu" and input.ndim == 4 and self.groups == 1:
            if self._is_small(input):
                return self._product(input)
            if self._selects_pixels():
                (down, right), (high, wide) = self.stride, self._count_zeros()
                padded = functional.pad(input, (wide, wide, high, high))
                return functional.conv2d(padded[:, :, ::down, ::right], self.weight, self.bias)
        return super().forward(input)

    def _is_small(self, x: Tensor) -> bool:
        return (
            max(x.shape[2:]) < _SMALLEST_FAST
            and self.stride == (1, 1)
            and _keeps_maps(self)
            and x.is_contiguous(memory_format=torch.channels_last)
            and not x.is_contiguous()
        )

    def _selects_pixels(self) -> bool:
        return (
            self.kernel_size == (1, 1)
            and self.stride != (1, 1)
            and (self.padding_mode == "zeros" or self._count_zeros() == (0, 0))
            and self.in_channels < _SAFE_INPUTS
        )

    def _count_zeros(self) -> tuple[int, ...]:
        """Return the padding above and on the left; one in words has none for a 1x1 kernel."""
        return (0, 0) if isinstance(self.padding, str) else self.padding

    def _product(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        taps = self.weight.permute(0, 2, 3, 1)
        places = [(i, j) for i in range(height) for j in range(width)]
        matrix = torch.cat(
            [
                taps[:, 1 - i : 1 - i + height, 1 - j : 1 - j + width].flatten(start_dim=1)
                for i, j in places
            ]
        )
        bias = None if self.bias is None else self.bias.repeat(len(places))
        rows = functional.linear(x.permute(0, 2, 3, 1).flatten(start_dim=1), matrix, bias)
        return rows.view(batch, height, width, self.out_channels).permute(0, 3, 1, 2)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that treats 3x3 in bfloat16 on the CPU differently.

    There the backward kernels are 10 to 100 times slower on maps below 3x3, which it pads, and with
    a stride, where it computes the gradient of the input itself.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Module's name)
        autocast = torch.is_autocast_enabled("cpu") and input.device.type == "cpu"
        if not autocast or input.ndim != 4 or not _keeps_maps(self):
            return super().forward(input)
        if self.stride != (1, 1):
            return self._strided(input) if len(set(self.stride)) == 1 else super().forward(input)
        height, width = input.shape[2:]
        if min(height, width) >= _SMALLEST_FAST:
            return super().forward(input)
        missing = [0, max(0, _SMALLEST_FAST - width), 0, max(0, _SMALLEST_FAST - height)]
        output = super().forward(functional.pad(input, missing))[:, :, :height, :width]
        return output.contiguous(memory_format=torch.channels_last)

    def _strided(self, x: Tensor) -> Tensor:
        precision = torch.get_autocast_dtype("cpu")
        bias = None if self.bias is None else self.bias.to(precision)
        output: Tensor = _StridedDepthwise.apply(  # type: ignore[no-untyped-call]
            x.to(precision), self.weight.to(precision), bias, self.stride[0]
        )
        return output


def _keeps_maps(convolution: nn.Conv2d) -> bool:
    """Return whether it is 3x3 with zero padding of 1: without a stride, maps keep their size."""
    return (
        convolution.kernel_size == (3, 3)
        and convolution.padding == (1, 1)
        and convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
    )


class _StridedDepthwise(torch.autograd.Function):
    """Computes the input's gradient as a convolution, without stride, of the output's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return functional.conv2d(x, weight, bias, stride, 1, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (gradient,), stride = ctx.saved_tensors, gradients, ctx.stride
        channels = len(weight)
        needed = [False, True, ctx.needs_input_grad[2]]
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            gradient, x, weight, [channels], [stride] * 2, [1, 1], [1, 1], False, [0, 0], channels,
            needed,
        )  # fmt: skip
        spread = torch.zeros_like(x)
        spread[:, :, ::stride, ::stride] = gradient
        grad_x = functional.conv2d(spread, weight.flip(2, 3), padding=1, groups=channels)
        return grad_x, grad_weight, grad_bias, None
