"""The cost of a network as a function of its widths.

A network is a table of operations. Its modules are built from the same table, so costs and modules
cannot disagree. Every term is coefficient x inputs x outputs.
L: searched layers; N: rows of widths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NsoptError, shorten, unknown_name

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Numbers = IntArray | FloatArray
Widths = Sequence[int] | IntArray  # what users give: (L,)
CostFunction = Callable[[ArrayLike], Any]
WIDEST = 2**20  # filters of a layer: the costs of wider networks overflow
_METRICS = ("params", "macs", "latency")


class CostModel(Protocol):
    """Maps widths to costs: (L,) to a number, (N, L) to an array (N,).

    Counted costs are integers; predicted milliseconds are floats.
    """

    def __call__(self, widths: ArrayLike) -> Any:
        """Return the costs of networks with these widths."""

    def lower_bound(self, widths: ArrayLike) -> Any:
        """Return a lower bound on the cost that never falls as a width grows."""

    def marginal(self, widths: ArrayLike) -> Numbers:
        """Return what one more filter in each layer costs at these widths: (L,), or (N, L)."""
        w = np.asarray(widths, dtype=np.int64)
        wider = w[..., None, :] + np.eye(w.shape[-1], dtype=np.int64)
        costs = np.reshape(self(wider.reshape(-1, w.shape[-1])), w.shape)
        return np.asarray(costs - np.asarray(self(w))[..., None])


@dataclass(frozen=True)
class Channels:
    """A tensor's number of channels: `factor * widths[layer]`, or `factor` if `layer` is None."""

    layer: int | None
    factor: int = 1

    def count(self, widths: IntArray) -> IntArray:
        """Return the channels (...) for widths (..., L)."""
        if self.layer is None:
            return np.full(widths.shape[:-1], self.factor, dtype=np.int64)
        return self.factor * widths[..., self.layer]


def differ(pair: tuple[Channels, Channels] | None, widths: IntArray) -> NDArray[np.bool_]:
    """Return whether two channel counts differ at widths (..., L): shape (...); True for None."""
    if pair is None:
        return np.ones(widths.shape[:-1], dtype=np.bool_)
    one, other = pair
    return np.asarray(one.count(widths) != other.count(widths))


@dataclass(frozen=True)
class Operation:
    """One weighted operation of a network.

    Attributes:
        name: path of its module.
        kind: convolution, depthwise convolution, linear layer or normalisation.
        kernel: side of a convolution's kernel.
        resolution: side of its square output map (1 for a linear layer).
        unless_equal: the operation exists only if these two channel counts differ, like the
            projection on a shortcut.
    """

    name: str
    kind: Literal["conv", "depthwise", "linear", "norm"]
    inputs: Channels
    outputs: Channels
    kernel: int = 1
    stride: int = 1
    bias: bool = True
    resolution: int = 1
    unless_equal: tuple[Channels, Channels] | None = None

    def exists(self, widths: IntArray) -> NDArray[np.bool_]:
        """Return whether networks of widths (..., L) have this operation: shape (...)."""
        return differ(self.unless_equal, widths)

    def params(self, widths: IntArray) -> IntArray:
        """Return the number of its parameters if it exists; a norm has two per channel."""
        out = self.outputs.count(widths)
        if self.kind == "norm":
            return 2 * out
        return (self._count_fan_in(widths) + int(self.bias)) * out

    def macs(self, widths: IntArray) -> IntArray:
        """Return its multiply-accumulates for one image; norms and biases count as 0."""
        if self.kind == "norm":
            return np.zeros(widths.shape[:-1], dtype=np.int64)
        return self._count_fan_in(widths) * self.outputs.count(widths) * self.resolution**2

    def _count_fan_in(self, widths: IntArray) -> IntArray:
        """Return how many weights one output channel has."""
        if self.kind == "depthwise":
            return np.full(widths.shape[:-1], self.kernel**2, dtype=np.int64)
        return self.inputs.count(widths) * self.kernel**2


@dataclass(frozen=True)
class CountedCost:
    """A `CostModel` that counts exactly, in int64: `params`, or `macs` of one image."""

    metric: str
    operations: tuple[Operation, ...]
    layers: int

    def __post_init__(self) -> None:
        if self.metric not in ("params", "macs"):
            raise unknown_metric(self.metric)

    def __call__(self, widths: ArrayLike) -> int | IntArray:
        w = read_rows(widths, self.layers)
        total: int | IntArray = unwrap(sum(self._count_if_existing(o, w) for o in self.operations))
        return total

    def lower_bound(self, widths: ArrayLike) -> int | IntArray:
        """Return the cost without the operations that equal widths can remove."""
        w = read_rows(widths, self.layers)
        always = [o for o in self.operations if o.unless_equal is None]
        total: int | IntArray = unwrap(sum(self._count(operation, w) for operation in always))
        return total

    def marginal(self, widths: ArrayLike) -> IntArray:
        """Return what one more filter adds to its own operation and to those that read it."""
        w = read_rows(widths, self.layers)
        wider = w[..., None, :] + np.eye(self.layers, dtype=np.int64)
        total = np.zeros(w.shape, dtype=np.int64)
        for operation in self.operations:
            grown = self._count(operation, wider) - self._count(operation, w)[..., None]
            total += np.where(operation.exists(w)[..., None], grown, 0)
        return total

    def _count_if_existing(self, operation: Operation, widths: IntArray) -> IntArray:
        term = self._count(operation, widths)
        return term if operation.unless_equal is None else operation.exists(widths) * term

    def _count(self, operation: Operation, widths: IntArray) -> IntArray:
        return operation.params(widths) if self.metric == "params" else operation.macs(widths)


@dataclass(frozen=True, eq=False)
class LinearCost:
    """A `CostModel` that is linear in another one: `constant + slope * cost`.

    Attributes:
        metric: what it counts or predicts, such as `latency`.
    """

    metric: str
    cost: CostModel
    slope: float
    constant: float = 0

    def __call__(self, widths: ArrayLike) -> Any:
        return self.constant + self.slope * self.cost(widths)

    def lower_bound(self, widths: ArrayLike) -> Any:
        return self.constant + self.slope * self.cost.lower_bound(widths)

    def marginal(self, widths: ArrayLike) -> Numbers:
        return np.asarray(self.slope * self.cost.marginal(widths))


def unknown_metric(name: str) -> NsoptError:
    """Return the error for a metric that does not exist."""
    if name.removesuffix("-int8") in ("flash", "memory"):
        return NsoptError(
            f"there is no metric {name}: limit params, which take 4 bytes each in float32 "
            "(params=16k for 64 kB)"
        )
    return unknown_name("metric", name, _METRICS)


def width_limits(cost: CostFunction, layers: int) -> tuple[NDArray[np.float64], ...]:
    """Return the narrowest and the widest possible widths, (L,) each, from the cost model."""
    limits = getattr(cost, "narrowest", 1), getattr(cost, "widest", WIDEST)
    narrowest, widest = (np.broadcast_to(np.asarray(some, float), layers) for some in limits)
    return narrowest, np.minimum(widest, WIDEST)


def read_numbers(name: str, values: ArrayLike) -> FloatArray:
    """Convert an argument to float64. Raises NsoptError, with its name, for text and other objects.

    NumPy would also convert text, such as "2e5".
    """
    try:
        given = np.asarray(values, dtype=object)
        if not any(isinstance(value, str | bytes) for value in given.flat):
            return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    raise NsoptError(f"{name} must be numbers, not {shorten(values)}")


def read_rows(widths: ArrayLike, layers: int) -> IntArray:
    """Convert widths to integers (L,) or (N, L). Raises NsoptError for any other shape."""
    try:
        w = np.asarray(widths, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        raise NsoptError(f"widths must be integers, not {shorten(widths)}") from None
    if w.ndim not in (1, 2) or w.shape[-1] != layers:
        raise NsoptError(f"{layers} widths expected, got an array of shape {w.shape}")
    return w


def unwrap(total: Any) -> Any:
    """Convert an array of shape () to a number."""
    return np.asarray(total).item() if np.ndim(total) == 0 else total
