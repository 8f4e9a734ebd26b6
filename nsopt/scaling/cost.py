"""What a network costs, as a function of its widths: parameters and multiply-accumulates.

A network is a table of operations. Modules are built from the same table, so that a cost is
never a second description of the network. Every term reads: coefficient x inputs x outputs.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NsoptError, unknown_name

IntArray = NDArray[np.int64]
METRICS = ("params", "macs")


@dataclass(frozen=True)
class Channels:
    """Number of channels of a tensor: `factor * widths[layer]`, or `factor` if `layer` is None."""

    layer: int | None
    factor: int = 1

    def count(self, widths: IntArray) -> IntArray:
        """Channels for widths of shape (..., L); shape (...)."""
        if self.layer is None:
            return np.full(widths.shape[:-1], self.factor, dtype=np.int64)
        return self.factor * widths[..., self.layer]


@dataclass(frozen=True)
class Operation:
    """One weighted operation of a network.

    name: path of its module; kernel, stride: of a convolution; bias: whether it has one;
    resolution: side of its square output map (1 for a linear layer).
    """

    name: str
    kind: Literal["conv", "linear", "norm"]
    inputs: Channels
    outputs: Channels
    kernel: int = 1
    stride: int = 1
    bias: bool = True
    resolution: int = 1

    def params(self, widths: IntArray) -> IntArray:
        """Weights and biases; a normalisation has two per channel."""
        out = self.outputs.count(widths)
        if self.kind == "norm":
            return 2 * out
        return (self.inputs.count(widths) * self.kernel**2 + int(self.bias)) * out

    def macs(self, widths: IntArray) -> IntArray:
        """Multiply-accumulates for one image; normalisation and bias are not counted."""
        if self.kind == "norm":
            return np.zeros(widths.shape[:-1], dtype=np.int64)
        per_position = self.inputs.count(widths) * self.outputs.count(widths) * self.kernel**2
        return per_position * self.resolution**2


@dataclass(frozen=True)
class CostModel:
    """Widths to cost: an int for shape (L,), an int64 array (N,) for shape (N, L)."""

    metric: str
    operations: tuple[Operation, ...]
    layers: int

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise unknown_name("metric", self.metric, METRICS)

    def __call__(self, widths: ArrayLike) -> int | IntArray:
        w = np.asarray(widths, dtype=np.int64)
        if w.ndim not in (1, 2) or w.shape[-1] != self.layers:
            raise NsoptError(f"{self.layers} widths expected, got an array of shape {w.shape}")
        total = np.zeros(w.shape[:-1], dtype=np.int64)
        for operation in self.operations:
            total += operation.params(w) if self.metric == "params" else operation.macs(w)
        return int(total) if w.ndim == 1 else total
