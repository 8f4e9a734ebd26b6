"""Costs that follow from the sizes in a network, which are linear in its widths; their limits."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NsoptError
from nsopt.scaling.cost import CostModel, IntArray, Numbers, read_rows

Size = tuple[IntArray, int]  # a factor for each of the L widths, and a constant to add
Term = tuple[int, list[Size]]  # a coefficient, and the sizes by which it is multiplied


@dataclass(frozen=True, eq=False)
class SizeCost(CostModel):
    """A cost that is counted exactly: a sum of T products of at most D sizes.

    The cost of widths w is sum_t counts[t] * prod_d (factors[d, t] @ w + constants[d, t]).

    Attributes:
        metric: what it counts.
        counts: how often a product counts, (T,).
        factors: (D, T, L).
        constants: (D, T).
    """

    metric: str
    counts: IntArray
    factors: IntArray
    constants: IntArray

    def __call__(self, widths: ArrayLike) -> int | IntArray:
        w = read_rows(widths, self.factors.shape[-1])
        products = np.ones((*w.shape[:-1], len(self.counts)), np.int64)
        for factor, constant in zip(self.factors, self.constants, strict=True):
            products *= w @ factor.T + constant
        total: IntArray = products @ self.counts
        return int(total) if w.ndim == 1 else total

    def lower_bound(self, widths: ArrayLike) -> int | IntArray:
        """Return the cost itself, because it never falls as a width grows."""
        return self(widths)


def sum_products(metric: str, terms: Iterable[Term], layers: int, divisor: int = 1) -> SizeCost:
    """Return the cost that is the sum of `terms`; equal products of sizes become one.

    Args:
        metric: what the cost counts.
        terms: products of sizes.
        layers: number of widths.
        divisor: number of examples by which the sum is divided.

    Raises:
        NsoptError: if `divisor` does not divide the sum evenly.
    """
    merged: Counter[tuple[tuple[bytes, int], ...]] = Counter()
    for coefficient, sizes in terms:
        fixed = [constant for factor, constant in sizes if not factor.any()]
        growing = ((factor.tobytes(), c) for factor, c in sizes if factor.any())
        merged[tuple(sorted(growing))] += coefficient * int(np.prod(fixed, dtype=np.int64))
    counts = np.array(list(merged.values()), np.int64)
    if (counts % divisor).any():
        raise NsoptError("the network does not need the same number of MACs for every example")
    degree = max(map(len, merged), default=0)
    factors = np.zeros((degree, len(merged), layers), np.int64)
    constants = np.ones((degree, len(merged)), np.int64)
    for t, key in enumerate(merged):
        for d, (factor, constant) in enumerate(key):
            factors[d, t], constants[d, t] = np.frombuffer(factor, np.int64), constant
    return SizeCost(metric, counts // divisor, factors, constants)


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
