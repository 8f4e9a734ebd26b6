"""The cost of a traced network: a sum of products of sizes, within the limits of its widths."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NsoptError
from nsopt.models.sizes import Size, SizeCost
from nsopt.scaling.cost import CostModel, Numbers

Term = tuple[int, list[Size]]  # a coefficient, and the sizes by which it is multiplied


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
    counts = np.array([list(merged.values())], np.int64)
    if (counts % divisor).any():
        raise NsoptError("the network does not need the same number of MACs for every example")
    products = [[(np.frombuffer(factor, np.int64), c) for factor, c in key] for key in merged]
    return SizeCost.of(metric, counts // divisor, products, layers)


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
