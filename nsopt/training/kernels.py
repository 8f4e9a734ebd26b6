"""Convolutions that avoid kernels of oneDNN that are slow in training, or wrong (PyTorch 2.13).

They compute the same as nn.Conv2d, which networks have again after training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_SMALLEST_FAST = 3
_SAFE_INPUTS = 16


@contextmanager
def fast_kernels(model: nn.Module) -> Iterator[None]:
    """Use nsopt's convolutions in `model` inside the block.

    They have the same parameters and attributes. Subclasses of nn.Conv2d do not change.
    """
    changed = []
    for module in model.modules():
        if type(module) is nn.Conv2d:
            is_depthwise = module.groups == module.in_channels == module.out_channels > 1
            changed.append(module)
            module.__class__ = DepthwiseConv2d if is_depthwise else SafeConv2d
    try:
        yield
    finally:
        for module in changed:
            module.__class__ = nn.Conv2d


class SafeConv2d(nn.Conv2d):
    """A convolution that selects its pixels first if it is 1x1 with a stride and few channels.

    In channels-last maps the gradient of oneDNN's weights writes beyond its memory if there are
    fewer channels than a block: 16 with AVX-512, 8 with AVX2 (uxlfoundation/oneDNN 6035).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Module's name)
        on_cpu = self.training and input.device.type == "cpu" and input.ndim == 4
        if not on_cpu or self.groups != 1 or not self._selects_pixels():
            return super().forward(input)
        (down, right), (high, wide) = self.stride, self._count_zeros()
        padded = functional.pad(input, (wide, wide, high, high))
        return functional.conv2d(padded[:, :, ::down, ::right], self.weight, self.bias)

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


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise 3x3 convolution that avoids the slow backward kernels of the CPU.

    They are 4 to 100 times slower on maps below 3x3, which it pads; in bfloat16 also with a stride,
    where it computes the gradient of the input itself.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Module's name)
        if input.device.type != "cpu" or input.ndim != 4 or not _keeps_maps(self):
            return super().forward(input)
        if self.stride != (1, 1):
            is_slow = self.stride[0] == self.stride[1] and torch.is_autocast_enabled("cpu")
            return self._strided(input) if is_slow else super().forward(input)
        height, width = input.shape[2:]
        if min(height, width) >= _SMALLEST_FAST:
            return super().forward(input)
        missing = [0, max(0, _SMALLEST_FAST - width), 0, max(0, _SMALLEST_FAST - height)]
        output = super().forward(functional.pad(input, missing))[:, :, :height, :width]
        is_last = input.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_last else torch.contiguous_format
        return output.contiguous(memory_format=layout)

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
