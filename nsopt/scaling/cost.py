"""The cost of a network as a function of its widths.

L: searched layers; N: rows of widths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True, eq=False)
class LinearCost:
    """A `CostModel` in proportion to another one: `slope * cost`.

    Attributes:
        metric: what it counts or predicts, such as `latency`.
    """

    metric: str
    cost: CostModel
    slope: float

    def __call__(self, widths: ArrayLike) -> Any:
        return self.slope * self.cost(widths)

    def lower_bound(self, widths: ArrayLike) -> Any:
        return self.slope * self.cost.lower_bound(widths)

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
