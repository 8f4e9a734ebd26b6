"""Costs that follow from the sizes in a network, which are linear in its widths; their limits.

L: searched widths; N: rows of widths; T: terms; D: sizes in a term.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NsoptError
from nsopt.scaling.cost import CostModel, IntArray, Numbers, read_rows, unwrap

Size = tuple[IntArray, int]  # a factor for each of the L widths, and a constant to add
Pair = tuple[int, int]  # widths, between which a shortcut is the identity if they are equal
ALWAYS: Pair = (0, 0)  # of what is never absent
Term = tuple[int, list[Size], Pair]  # a coefficient, and the sizes by which it is multiplied


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
