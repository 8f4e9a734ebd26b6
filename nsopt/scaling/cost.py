"""The cost of a network as a function of its widths: by its sizes, with limits, of several budgets.

L: searched widths; N: rows of widths; T: terms; D: sizes in a term, which are linear in the widths;
K: budgets.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
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
Size = tuple[IntArray, int]  # a factor for each of the L widths, and a constant to add
Pair = tuple[int, int]  # widths, between which a shortcut is the identity if they are equal
ALWAYS: Pair = (0, 0)  # of what is never absent
Term = tuple[int, list[Size], Pair]  # a coefficient, and the sizes by which it is multiplied


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


@dataclass(frozen=True, eq=False)
class SizeCost(CostModel):
    """A cost that is counted exactly: a sum of T products of at most D sizes.

    The cost of widths w is sum_t counts[t] * prod_d (factors[d, t] @ w + constants[d, t]), over the
    terms that exist.

    Attributes:
        metric: what it counts.
        counts: how often a product counts, (T,).
        factors: (D, T, L).
        constants: (D, T).
        pairs: two widths, (T, 2): if they are different ones, the term exists only where the widths
            differ, like the projection on a shortcut.
    """

    metric: str
    counts: IntArray
    factors: IntArray
    constants: IntArray
    pairs: IntArray

    def __call__(self, widths: ArrayLike) -> int | IntArray:
        w = read_rows(widths, self.factors.shape[-1])
        return self._count(w, self._exist(w))

    def lower_bound(self, widths: ArrayLike) -> int | IntArray:
        """Return the cost without the terms that equal widths can remove."""
        one, other = self.pairs.T
        return self._count(read_rows(widths, self.factors.shape[-1]), one == other)

    def marginal(self, widths: ArrayLike) -> IntArray:
        """Return what one more unit of each group adds to the terms that exist."""
        w = read_rows(widths, self.factors.shape[-1])
        wider, exist = w[..., None, :] + np.eye(w.shape[-1], dtype=np.int64), self._exist(w)
        grown = (
            self._count(wider, exist[..., None, :]) - np.asarray(self._count(w, exist))[..., None]
        )
        return np.asarray(grown)

    def _exist(self, widths: IntArray) -> NDArray[np.bool_]:
        one, other = self.pairs.T
        return np.asarray((one == other) | (widths[..., one] != widths[..., other]))

    def _count(self, widths: IntArray, exist: NDArray[np.bool_]) -> int | IntArray:
        products = exist * self.counts
        for factor, constant in zip(self.factors, self.constants, strict=True):
            products = products * (widths @ factor.T + constant)
        total: int | IntArray = unwrap(products.sum(axis=-1))
        return total


def sum_products(metric: str, terms: Iterable[Term], layers: int, divisor: int = 1) -> SizeCost:
    """Return the cost that is the sum of `terms`; equal products of sizes become one.

    `layers` is the number of widths, `divisor` the number of examples. Raises NsoptError if that
    does not divide the sum evenly.
    """
    merged: Counter[tuple[tuple[tuple[bytes, int], ...], Pair]] = Counter()
    for coefficient, sizes, pair in terms:
        fixed = [constant for factor, constant in sizes if not factor.any()]
        growing = tuple(sorted((f.tobytes(), c) for f, c in sizes if f.any()))
        merged[growing, pair] += coefficient * int(np.prod(fixed, dtype=np.int64))
    counts = np.array(list(merged.values()), np.int64)
    if (counts % divisor).any():
        raise NsoptError("the network does not need the same number of MACs for every example")
    degree = max((len(sizes) for sizes, _ in merged), default=0)
    factors = np.zeros((degree, len(merged), layers), np.int64)
    constants = np.ones((degree, len(merged)), np.int64)
    for t, (growing, _) in enumerate(merged):
        for d, (factor, constant) in enumerate(growing):
            factors[d, t], constants[d, t] = np.frombuffer(factor, np.int64), constant
    pairs = np.array([pair for _, pair in merged], np.int64).reshape(-1, 2)
    return SizeCost(metric, counts // divisor, factors, constants, pairs)


@dataclass(frozen=True, eq=False)
class LimitedCost:
    """A `CostModel` with limits of the widths, which solvers respect.

    Attributes:
        widest: the largest width of each group, (L,); infinite without a limit.
        find_narrowest: returns the smallest widths. It is slow, so it runs only when needed.
    """

    cost: CostModel
    widest: NDArray[np.float64]
    find_narrowest: Callable[[], tuple[int, ...]]

    @property
    def narrowest(self) -> tuple[int, ...]:
        """The smallest width of each group."""
        return self.find_narrowest()

    @property
    def metric(self) -> str:
        """What the cost model counts."""
        return str(getattr(self.cost, "metric", ""))

    def __call__(self, widths: ArrayLike) -> Any:
        return self.cost(widths)

    def lower_bound(self, widths: ArrayLike) -> Any:
        return self.cost.lower_bound(widths)

    def marginal(self, widths: ArrayLike) -> Numbers:
        return self.cost.marginal(widths)


@dataclass(frozen=True, eq=False)
class JointCost(CostModel):
    """The cost of several budgets: widths meet all budgets if and only if they cost at most 1.

    This is exact: if a cost is above its budget, their rounded quotient is above 1.

    Attributes:
        limits: pairs of a cost model and its budget, K of them.
    """

    limits: tuple[tuple[CostFunction, float], ...]

    def __post_init__(self) -> None:
        if not self.limits or not all(map(_is_limit, self.limits)):
            raise NsoptError(
                "give several budgets as pairs of a cost and a number above 0, such as "
                "[(arch.cost('params'), 250_000), (arch.cost('macs'), 20e6)]"
            )

    @property
    def names(self) -> list[str]:
        """The names of the metrics; `cost 1` and so on for cost models without a metric."""
        names = [getattr(cost, "metric", "") for cost, _ in self.limits]
        return [name or f"cost {number}" for number, name in enumerate(names, start=1)]

    @property
    def metric(self) -> str:
        """All budgets, in the form `params=250000,macs=20000000`."""
        budgets = [budget for _, budget in self.limits]
        return name_limits(list(zip(self.names, budgets, strict=True)))

    def __call__(self, widths: ArrayLike) -> Any:
        """Return the largest share of a budget that widths (N, L) use: (N,)."""
        return unwrap(self.shares(widths).max(axis=-1))

    def shares(self, widths: ArrayLike) -> FloatArray:
        """Return the share of each budget that widths (N, L) use: (N, K)."""
        return np.stack([cost(widths) / budget for cost, budget in self.limits], axis=-1)

    def costs(self, widths: ArrayLike) -> Numbers:
        """Return the K costs of widths (L,); integers if all costs are integers."""
        return np.array([cost(widths) for cost, _ in self.limits])

    def budgets_and_costs(self, widths: ArrayLike, share: float) -> dict[str, tuple[float, float]]:
        """Return, by metric, `share` of its budget and what widths (L,) cost of it."""
        budgets = [float(share * limit) for _, limit in self.limits]
        pairs = zip(budgets, self.costs(widths).tolist(), strict=True)
        return dict(zip(self.names, pairs, strict=True))

    def lower_bound(self, widths: ArrayLike) -> Any:
        bounds = [getattr(cost, "lower_bound", cost)(widths) / b for cost, b in self.limits]
        return unwrap(np.max(bounds, axis=0))

    @property
    def narrowest(self) -> Any:
        """The narrowest widths that all cost models allow."""
        return reduce(np.maximum, [getattr(cost, "narrowest", 1) for cost, _ in self.limits])

    @property
    def widest(self) -> Any:
        """The widest widths that all cost models allow."""
        return reduce(np.minimum, [getattr(cost, "widest", WIDEST) for cost, _ in self.limits])

    def describe(self, numbers: ArrayLike) -> str:
        """Format one number per budget with the name of its metric."""
        pairs = zip(self.names, np.asarray(numbers).tolist(), strict=True)
        return ", ".join(f"{name}={format_exactly(number)}" for name, number in pairs)


def name_limits(limits: Sequence[tuple[str, float]]) -> str:
    """Format metrics with their budgets, in all digits."""
    words = (f"{name}={np.format_float_positional(limit, trim='-')}" for name, limit in limits)
    return ",".join(words)


def _is_limit(limit: Any) -> bool:
    if not isinstance(limit, tuple | list) or len(limit) != 2:
        return False
    cost, budget = limit
    is_number = isinstance(budget, int | float | np.number)
    return callable(cost) and is_number and bool(0 < budget < np.inf)


def format_exactly(cost: float) -> str:
    """Format all digits of a cost."""
    return f"{int(cost):,}" if float(cost).is_integer() else f"{float(cost):,}"
