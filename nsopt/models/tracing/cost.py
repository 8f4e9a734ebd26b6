"""The cost of a traced network: a sum of products of sizes, which are linear in the widths."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NsoptError
from nsopt.models.tracing.labels import Atoms
from nsopt.scaling.cost import CostModel, Numbers, compute_marginal, read_rows

Size = tuple[Atoms, int]  # a factor for each of the L widths, and a constant to add


@dataclass(frozen=True, eq=False)
class TracedCost:
    """A `CostModel` that counts exactly, because the widths determine all sizes of the network.

    The cost of widths w is sum_t coefficients[t] * prod_d (factors[d, t] @ w + constants[d, t]),
    for T terms of at most D sizes each, and L widths.

    Attributes:
        metric: what it counts.
        coefficients: (T,).
        factors: (D, T, L).
        constants: (D, T).
    """

    metric: str
    coefficients: Atoms
    factors: Atoms
    constants: Atoms

    @classmethod
    def of(
        cls, metric: str, terms: Iterable[tuple[int, list[Size]]], layers: int, divisor: int = 1
    ) -> Self:
        """Return the cost that is the sum of `terms`; equal products of sizes become one term.

        Args:
            metric: what the cost counts.
            terms: pairs of a coefficient and the sizes by which it is multiplied.
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
        degree = max((len(key) for key in merged), default=0)
        factors = np.zeros((degree, len(merged), layers), np.int64)
        constants = np.ones((degree, len(merged)), np.int64)
        for t, key in enumerate(merged):
            for d, (factor, constant) in enumerate(key):
                factors[d, t], constants[d, t] = np.frombuffer(factor, np.int64), constant
        coefficients = np.array(list(merged.values()), np.int64)
        if (coefficients % divisor).any():
            raise NsoptError("the network does not need the same number of MACs for every example")
        return cls(metric, coefficients // divisor, factors, constants)

    def __call__(self, widths: ArrayLike) -> int | Atoms:
        w = read_rows(widths, self.factors.shape[-1])
        total = self._compute_terms(w).sum(axis=-1)
        return int(total) if w.ndim == 1 else total

    def lower_bound(self, widths: ArrayLike) -> int | Atoms:
        """Return the cost itself, because it never falls as a width grows."""
        return self(widths)

    def marginal(self, widths: ArrayLike) -> Numbers:
        """Return the cost of one more unit in each group, (L,), or (N, L) for N rows of widths."""
        return compute_marginal(self, widths)

    def _compute_terms(self, widths: Atoms) -> Atoms:
        """Return the value of every term, (..., T), for widths (..., L)."""
        result = np.broadcast_to(self.coefficients, (*widths.shape[:-1], len(self.coefficients)))
        for factor, constant in zip(self.factors, self.constants, strict=True):
            result = result * (widths @ factor.T + constant)
        return result


@dataclass(frozen=True, eq=False)
class LimitedCost:
    """A `CostModel` with limits of the widths, which solvers respect.

    Attributes:
        cost: the cost model.
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
        """Return a bound that never falls as a width grows."""
        return self.cost.lower_bound(widths)

    def marginal(self, widths: ArrayLike) -> Numbers:
        """Return the cost of one more unit in each group, (L,), or (N, L)."""
        return self.cost.marginal(widths)
