"""Products of activations with a weight: their rows of inputs and outputs, and their weights.

A row is one place of one example: of a convolution the patch below one output, of a matrix product
one row. G: groups of a grouped convolution, solved side by side, otherwise 1.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(eq=False)
class MatrixProduct:
    """Rows times a weight (inputs, outputs).

    Attributes:
        weight: the factor, a parameter or a view of one.
        bias: what the operation itself adds; None if it adds nothing.
    """

    weight: Tensor
    bias: Tensor | None

    @property
    def output_axis(self) -> int:
        """The axis of the weight along which its outputs are."""
        return -1

    @property
    def inputs(self) -> int:
        """Number of weights of an output."""
        return self.weight.shape[-2]

    def count_places(self, result: Tensor) -> tuple[int, int]:
        """Return the number of examples in a result, and of places in each."""
        return 1, result.numel() // result.shape[-1]

    def select(self, result: Tensor, places: Tensor) -> Tensor:
        """Return the outputs at `places` (examples, places of each), as (rows, outputs)."""
        return result.reshape(-1, result.shape[-1])[places[0]]

    def rows(self, x: Tensor, places: Tensor) -> Tensor:
        """Return the inputs of the outputs at `places`, (G, rows, inputs)."""
        return self.select(x, places)[None]

    def split(self, outputs: Tensor) -> Tensor:
        """Return outputs (..., all outputs) by groups, (G, ..., outputs of a group)."""
        return outputs[None]

    def matrix(self, weight: Tensor) -> Tensor:
        """Return a weight as (G, inputs, outputs of a group)."""
        return weight.reshape(1, *weight.shape[-2:])

    def change(self, change: Tensor) -> None:
        """Add a change (G, inputs, outputs of a group) to the weight."""
        self.weight += change.view(self.weight.shape).to(self.weight)


@dataclass(eq=False)
class Convolution:
    """A convolution of one to three dimensions, grouped or transposed; see `MatrixProduct`."""

    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    groups: int
    sides: list[int]  # of the result

    @property
    def kernel(self) -> list[int]:
        return list(self.weight.shape[2:])

    @property
    def output_axis(self) -> int:
        return int(self.transposed and self.groups == 1)

    @property
    def inputs(self) -> int:
        first, second = self.weight.shape[:2]
        channels = first // self.groups if self.transposed else second
        return channels * math.prod(self.kernel)

    def count_places(self, result: Tensor) -> tuple[int, int]:
        return len(result), math.prod(result.shape[2:])

    def select(self, result: Tensor, places: Tensor) -> Tensor:
        maps = result.flatten(2)
        index = places[:, None].expand(-1, maps.shape[1], -1)
        return maps.gather(2, index).transpose(1, 2).flatten(0, 1)

    def rows(self, x: Tensor, places: Tensor) -> Tensor:
        padded, step = self._pad(x)
        grid = torch.arange(padded.shape[2:].numel(), device=x.device).view(padded.shape[2:])
        sized = zip(self.sides, step, strict=True)
        corners = grid[tuple(slice(0, side * stride, stride) for side, stride in sized)].flatten()
        sized = zip(self.kernel, self.dilation, strict=True)
        taps = grid[tuple(slice(0, k * dilation, dilation) for k, dilation in sized)]
        offsets = (taps.flip(*range(taps.ndim)) if self.transposed else taps).flatten()
        index = (corners[places][:, :, None] + offsets).flatten(1)  # (examples, places * K)
        maps = padded.flatten(2)
        values = maps.gather(2, index[:, None].expand(-1, maps.shape[1], -1))
        shape = len(maps), self.groups, -1, places.shape[1], len(offsets)
        # (examples, G, channels, places, K) -> (G, examples, places, channels, K)
        return values.reshape(shape).permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)

    def _pad(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """Return the padded input, and the steps in it from output to output."""
        spans = [d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True)]
        if not self.transposed:
            sides = [p for p in reversed(self.padding) for _ in range(2)]
            return functional.pad(x, sides), self.stride
        # Output o reads input i at kernel offset k where o + padding = stride * i + dilation * k.
        sizes = [(n - 1) * stride + 1 for n, stride in zip(x.shape[2:], self.stride, strict=True)]
        spread = x.new_zeros(*x.shape[:2], *sizes)
        spread[tuple(slice(None, None, stride) for stride in (1, 1, *self.stride))] = x
        around: list[int] = []  # negative where it is cropped
        for n, side, span, padding in zip(sizes, self.sides, spans, self.padding, strict=True):
            around[:0] = span - padding, side + padding - n
        return functional.pad(spread, around), [1] * len(sizes)

    def split(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(*outputs.shape[:-1], self.groups, -1).movedim(-2, 0)

    def matrix(self, weight: Tensor) -> Tensor:
        grouped: Tensor = weight.unflatten(0, (self.groups, -1))
        by_output = grouped.movedim(2, 1) if self.transposed else grouped
        return by_output.flatten(2).mT

    def change(self, change: Tensor) -> None:
        parts = change.unflatten(1, (-1, *self.kernel))  # (G, channels, *kernel, outputs)
        channels_first = parts.movedim(-1, 2)  # (G, channels, outputs, *kernel)
        whole = channels_first if self.transposed else channels_first.transpose(1, 2)
        self.weight += whole.flatten(0, 1).to(self.weight)


Product = MatrixProduct | Convolution


def read_product(name: str, args: Any, result: Any) -> tuple[Tensor, Product] | None:
    """Return the input of an ATen operation and its product; None for other operations."""
    if name == "convolution":
        x, weight, bias, stride, padding, dilation, transposed, _, groups = args
        sides = len(weight.shape) - 2
        stride, padding, dilation = (
            list(value) * (sides if len(value) == 1 else 1) for value in (stride, padding, dilation)
        )
        rest = stride, padding, dilation, transposed, groups, list(result.shape[2:])
        return x, Convolution(weight, bias, *rest)
    if name in ("mm", "addmm"):
        bias, x, weight = (None, *args) if name == "mm" else args[:3]
        return x, MatrixProduct(weight, bias)
    if name == "bmm" and len(args[1]) == 1:
        return args[0], MatrixProduct(args[1], None)
    return None
