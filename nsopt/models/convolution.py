"""Convolutions with another way through the CPU where its kernels are slow in training.

All compute what nn.Conv2d does; evaluation, other devices and PyTorch's default memory layout are
left to nn.Conv2d.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALLEST_FAST = 3


class Conv2d(nn.Conv2d):
    """A 3x3 convolution; on channels-last maps of at most 2x2, one matrix product.

    There most of the nine taps lie in the padding: the product has less than half the work, and
    the gradient of the weights comes 3 times faster.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Module's name)
        if self._is_small(input):
            return self._product(input)
        return super().forward(input)

    def _is_small(self, x: Tensor) -> bool:
        return (
            self.training
            and x.device.type == "cpu"
            and max(x.shape[2:]) < _SMALLEST_FAST
            and self.kernel_size == (3, 3)
            and self.stride == (1, 1)
            and x.is_contiguous(memory_format=torch.channels_last)
            and not x.is_contiguous()
        )

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
    """A 3x3 depthwise convolution, for bfloat16 on the CPU.

    Its bfloat16 kernels are 10 to 100 times slower backwards with a stride, and on maps below 3x3:
    the first are computed in float32, the second on maps padded to 3x3.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Module's name)
        if not torch.is_autocast_enabled("cpu") or input.device.type != "cpu":
            return super().forward(input)
        if self.stride != (1, 1):
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float()).to(torch.get_autocast_dtype("cpu"))
        height, width = input.shape[2:]
        if min(height, width) >= _SMALLEST_FAST:
            return super().forward(input)
        missing = [0, max(0, _SMALLEST_FAST - width), 0, max(0, _SMALLEST_FAST - height)]
        output = super().forward(functional.pad(input, missing))[:, :, :height, :width]
        return output.contiguous(memory_format=torch.channels_last)
