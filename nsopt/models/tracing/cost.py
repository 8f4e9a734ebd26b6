"""The cost of a traced network: sums of products of sizes, each a linear function of the widths."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NsoptError
from nsopt.models.tracing.labels import Atoms
from nsopt.scaling.cost import CostModel, Numbers, grown_by_one, read_rows

Size = tuple[Atoms, int]  # factors of the widths (L,), and a constant


@dataclass(frozen=True, eq=False)
class TracedCost:
    """A `CostModel` that counts exactly, as all sizes of the network follow from its widths.

    T terms of at most D factors. metric: what it counts; coefficients: (T,); factors: (D, T, L);
    constants: (D, T).
    """

    metric: str
    coefficients: Atoms
    factors: Atoms
    constants: Atoms

    @classmethod
    def of(
        cls,
        metric: str,
        terms: Iterable[tuple[int, list[Size]]],
        layers: int,
        divisor: int = 1,
    ) -> Self:
        """terms: a coefficient and the sizes that it is multiplied by; divisor: of the total, which
        it divides without a rest."""
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
            raise NsoptError("the work of the network is not the same for each of its examples")
        return cls(metric, coefficients // divisor, factors, constants)

    def __call__(self, widths: ArrayLike) -> int | Atoms:
        w = read_rows(widths, self.factors.shape[-1])
        total = self._terms(w).sum(axis=-1)
        return int(total) if w.ndim == 1 else total

    def lower_bound(self, widths: ArrayLike) -> int | Atoms:
        """The cost itself: it never falls as a width grows."""
        return self(widths)

    def marginal(self, widths: ArrayLike) -> Atoms:
        """What one more unit of each group costs: (L,), or (N, L)."""
        grown: Atoms = grown_by_one(self, widths)
        return grown

    def _terms(self, widths: Atoms) -> Atoms:
        """(..., T) for widths (..., L)."""
        result = np.broadcast_to(self.coefficients, (*widths.shape[:-1], len(self.coefficients)))
        for factor, constant in zip(self.factors, self.constants, strict=True):
            result = result * (widths @ factor.T + constant)
        return result


@dataclass(frozen=True, eq=False)
class LimitedCost:
    """A `CostModel` of networks whose widths have limits, to which solvers keep.

    widest: (L,), infinite for groups that grow at will; find_narrowest: takes a while, so that
    only those call it who need it.
    """

    cost: CostModel
    widest: NDArray[np.float64]
    find_narrowest: Callable[[], tuple[int, ...]]

    @property
    def narrowest(self) -> tuple[int, ...]:
        return self.find_narrowest()

    @property
    def metric(self) -> str:
        return str(getattr(self.cost, "metric", ""))

    def __call__(self, widths: ArrayLike) -> Any:
        return self.cost(widths)

    def lower_bound(self, widths: ArrayLike) -> Any:
        return self.cost.lower_bound(widths)

    def marginal(self, widths: ArrayLike) -> Numbers:
        return self.cost.marginal(widths)
