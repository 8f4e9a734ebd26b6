"""Several budgets as one cost: the largest share of a budget that a network uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nsopt.errors import NsoptError
from nsopt.scaling.cost import WIDEST, CostFunction, CostModel, FloatArray, Numbers, unwrap


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
