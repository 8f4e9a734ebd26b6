"""A latency model: milliseconds from the MACs and the widths of a network.

Kernels take time for what they multiply, and for the activations that they read and write, which
grow with the widths. Three numbers, fitted to a few timed networks, predict others within a tenth.
A prediction only says where a bisection begins, and which layers are cheap: networks are timed.

L: searched layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import CostModel, FloatArray, read_rows, unwrap
from nsopt.scaling.metric import LATENCY, MACS


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """A `CostModel` in milliseconds: `constant + per_mac * MACs + widths @ per_unit`.

    Attributes:
        macs: counts the MACs.
        per_unit: milliseconds of one unit of each width, (L,).
        constant: milliseconds that every network takes.

    Examples:
        >>> model = LatencyModel(arch.cost("macs"), 2e-6, np.array([0.3, 0.1]), 4.0)
        >>> model([16, 32])
    """

    macs: CostModel
    per_mac: float
    per_unit: FloatArray
    constant: float
    metric = LATENCY.name

    def __call__(self, widths: ArrayLike) -> Any:
        return self._add(self.macs(widths), widths)

    def lower_bound(self, widths: ArrayLike) -> Any:
        return self._add(self.macs.lower_bound(widths), widths)

    def marginal(self, widths: ArrayLike) -> FloatArray:
        return np.asarray(self.per_mac * self.macs.marginal(widths) + self.per_unit)

    def _add(self, macs: Any, widths: ArrayLike) -> Any:
        rows = read_rows(widths, len(self.per_unit))
        return unwrap(self.constant + self.per_mac * np.asarray(macs) + rows @ self.per_unit)

    def scaled(self, factor: float) -> Self:
        """Return the model of a device that takes `factor` times as long."""
        scaled = {n: factor * getattr(self, n) for n in ("per_mac", "per_unit", "constant")}
        return replace(self, **scaled)

    def to_dict(self) -> dict[str, Any]:
        return {
            "per_mac": self.per_mac,
            "per_unit": self.per_unit.tolist(),
            "constant": self.constant,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], arch: Architecture) -> Self:
        """Read what `to_dict` returned. Raises ValueError for a network of other layers."""
        per_unit = np.array(data["per_unit"], dtype=np.float64)
        if per_unit.shape != (len(arch.base_widths),):
            raise ValueError("it is of a network with other layers")
        return cls(MACS.cost(arch), float(data["per_mac"]), per_unit, float(data["constant"]))


def fit_latency(
    arch: Architecture, networks: Sequence[Sequence[int]], milliseconds: Sequence[float]
) -> LatencyModel:
    """Return the model with the smallest relative errors on timed networks.

    A unit of a layer adds in proportion to its share of the layer at base widths: layers of few
    units usually compute on large activations.

    Args:
        networks: M rows of L widths.
        milliseconds: of these networks, (M,).
    """
    from sklearn.linear_model import LinearRegression  # noqa: PLC0415  (0.6 s to import)

    macs, base = MACS.cost(arch), np.array(arch.base_widths)
    share = 1 / (len(base) * base)
    widths = np.array(networks)
    whole = float(macs(base)) or 1.0
    terms = np.column_stack([macs(widths) / whole, widths @ share, np.ones(len(widths))])
    relative = terms / np.asarray(milliseconds)[:, None]
    fit = LinearRegression(positive=True, fit_intercept=False).fit(relative, np.ones(len(widths)))
    by_macs, by_widths, constant = fit.coef_.tolist()
    return LatencyModel(macs, by_macs / whole, by_widths * share, constant)
