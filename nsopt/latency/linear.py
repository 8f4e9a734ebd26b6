"""A latency model from two measurements: a constant, and milliseconds per MAC.

It orders networks along a law where nothing better is known: kernels cannot be timed one by one in
another runtime, nor in a network that calls other operations at other widths. Bisection
(`bisection`) then finds the widths that keep a budget as measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import CostModel, Numbers, width_limits
from nsopt.scaling.metric import LATENCY, MACS


@dataclass(frozen=True, eq=False)
class LinearLatency:
    """A `CostModel` in milliseconds: `constant + slope * cost`."""

    cost: CostModel
    constant: float
    slope: float
    metric = LATENCY.name

    def __call__(self, widths: ArrayLike) -> Any:
        return self.constant + self.slope * self.cost(widths)

    def lower_bound(self, widths: ArrayLike) -> Any:
        """Return a lower bound that never falls as a width grows."""
        return self.constant + self.slope * self.cost.lower_bound(widths)

    def marginal(self, widths: ArrayLike) -> Numbers:
        """Return milliseconds per additional filter of each layer: (L,), or (N, L)."""
        return np.asarray(self.slope * self.cost.marginal(widths))


class MacsLatency(LinearLatency):
    """A linear model over MACs, which a study can store."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {"constant": self.constant, "per_mac": self.slope}


def is_linear(data: dict[str, Any]) -> bool:
    """Return whether `MacsLatency.to_dict` returned `data`."""
    return "per_mac" in data


def read_linear(data: dict[str, Any], arch: Architecture) -> MacsLatency:
    return MacsLatency(MACS.cost(arch), data["constant"], data["per_mac"])


def fit_linear(
    arch: Architecture, measure: Callable[[Sequence[tuple[int, ...]]], Sequence[float]]
) -> MacsLatency:
    """Return the model through the measured networks of base widths and of the narrowest ones.

    If the narrowest takes as long, milliseconds are proportional to MACs.

    Args:
        measure: returns the milliseconds of networks of these widths.
    """
    macs = MACS.cost(arch)
    narrowest, _ = width_limits(macs, len(arch.base_widths))
    networks = [arch.base_widths, tuple(narrowest.astype(int).tolist())]
    (whole, small), (most, least) = measure(networks), (float(macs(w)) for w in networks)
    slope = (whole - small) / (most - least) if most > least else 0.0
    if slope <= 0 or whole < slope * most:
        return MacsLatency(macs, 0.0, whole / most)
    return MacsLatency(macs, whole - slope * most, slope)
