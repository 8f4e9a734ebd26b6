"""Costs that follow from the sizes in a network, which are linear in its widths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from nsopt.scaling.cost import CostModel, IntArray, read_rows

Size = tuple[IntArray, int]  # a factor for each of the L widths, and a constant to add


@dataclass(frozen=True, eq=False)
class SizeCost(CostModel):
    """A cost that is counted exactly: the largest of S sums of T products of at most D sizes.

    The cost of widths w is max_s sum_t counts[s, t] * prod_d (factors[d, t] @ w + constants[d, t]).

    Attributes:
        metric: what it counts.
        counts: how often a product counts in a sum, (S, T).
        factors: (D, T, L).
        constants: (D, T).
    """

    metric: str
    counts: IntArray
    factors: IntArray
    constants: IntArray

    @classmethod
    def of(
        cls, metric: str, counts: IntArray, products: Sequence[Sequence[Size]], layers: int
    ) -> Self:
        """Return the cost of `products`, each the sizes that it multiplies, for L layers."""
        degree = max(map(len, products), default=0)
        factors = np.zeros((degree, len(products), layers), np.int64)
        constants = np.ones((degree, len(products)), np.int64)
        for t, sizes in enumerate(products):
            for d, (factor, constant) in enumerate(sizes):
                factors[d, t], constants[d, t] = factor, constant
        return cls(metric, counts, factors, constants)

    def __call__(self, widths: ArrayLike) -> int | IntArray:
        w = read_rows(widths, self.factors.shape[-1])
        largest: IntArray = (self.multiply(w) @ self.counts.T).max(axis=-1)
        return int(largest) if w.ndim == 1 else largest

    def multiply(self, widths: IntArray) -> IntArray:
        """Return the value of every product, (..., T), for widths (..., L)."""
        result = np.ones((*widths.shape[:-1], self.factors.shape[1]), np.int64)
        for factor, constant in zip(self.factors, self.constants, strict=True):
            result *= widths @ factor.T + constant
        return result

    def lower_bound(self, widths: ArrayLike) -> int | IntArray:
        """Return the cost itself, because it never falls as a width grows."""
        return self(widths)
