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
        corner = torch.zeros_like(places)
        pitch, rest = 1, places
        pitches: list[int] = []
        for side, size, stride in zip(
            padded.shape[:1:-1], self.sides[::-1], step[::-1], strict=True
        ):
            corner = corner + rest % size * (stride * pitch)
            rest = torch.div(rest, size, rounding_mode="floor")
            pitches.insert(0, pitch)
            pitch *= side
        offsets = torch.zeros(1, dtype=torch.int64)
        for k, dilation, pitch in zip(self.kernel, self.dilation, pitches, strict=True):
            steps = torch.arange(k) * (dilation * pitch)
            steps = steps.flip(0) if self.transposed else steps
            offsets = (offsets[:, None] + steps).flatten()
        index = (corner[:, :, None] + offsets.to(x.device)).flatten(1)  # (examples, places * K)
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
        whole = [size + span for size, span in zip(self.sides, spans, strict=True)]
        spread = x.new_zeros(*x.shape[:2], *whole)
        # Output o reads input i at kernel offset k where o + padding = stride * i + dilation * k.
        target, source = [slice(None)] * 2, [slice(None)] * 2
        for n, size, span, stride, padding in zip(
            x.shape[2:], whole, spans, self.stride, self.padding, strict=True
        ):
            first = max(0, -(-(padding - span) // stride))
            start = stride * first + span - padding
            count = min(n - first, (size - start - 1) // stride + 1)
            target.append(slice(start, start + (count - 1) * stride + 1, stride))
            source.append(slice(first, first + count))
        spread[tuple(target)] = x[tuple(source)]
        return spread, [1] * len(whole)

    def split(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(*outputs.shape[:-1], self.groups, -1).movedim(-2, 0)

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
