"""A latency model from two measurements: a constant, and milliseconds per MAC.

It orders networks along a law where nsopt has no better model: it cannot time kernels one by one
in another runtime than PyTorch, nor in a network that calls other operations at other widths.
Bisection (`bisection`) then finds widths that keep a budget by measurement.
"""

from collections.abc import Callable, Sequence
from typing import Any

from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import LinearCost, width_limits
from nsopt.scaling.metric import LATENCY, MACS


class MacsLatency(LinearCost):
    """Milliseconds by MACs: a `CostModel` that a study can store."""

    def scaled(self, factor: float) -> "MacsLatency":
        """Return the model of a device that takes `factor` times as long."""
        return MacsLatency(self.metric, self.cost, factor * self.slope, factor * self.constant)

    def to_dict(self) -> dict[str, Any]:
        return {"constant": self.constant, "per_mac": self.slope}


def is_linear(data: dict[str, Any]) -> bool:
    """Return whether `MacsLatency.to_dict` returned `data`."""
    return "per_mac" in data


def read_linear(data: dict[str, Any], arch: Architecture) -> MacsLatency:
    return MacsLatency(LATENCY.name, MACS.cost(arch), data["per_mac"], data["constant"])


def fit_linear(
    arch: Architecture, measure: Callable[[Sequence[tuple[int, ...]]], Sequence[float]]
) -> MacsLatency:
    """Fit the model to two measured networks: base widths, and the narrowest widths.

    If the narrowest network takes as long, milliseconds are proportional to MACs.
    """
    macs = MACS.cost(arch)
    narrowest, _ = width_limits(macs, len(arch.base_widths))
    networks = [arch.base_widths, tuple(narrowest.astype(int).tolist())]
    (whole, small), (most, least) = measure(networks), (float(macs(w)) for w in networks)
    slope = (whole - small) / (most - least) if most > least else 0.0
    if slope <= 0 or whole < slope * most:
        return MacsLatency(LATENCY.name, macs, whole / most, 0.0)
    return MacsLatency(LATENCY.name, macs, slope, whole - slope * most)
