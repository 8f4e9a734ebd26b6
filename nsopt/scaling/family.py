"""A family of power laws around uniform scaling.

Power laws multiplied and raised to powers are power laws. With u the uniform law, f_1, f_2, ...
others and d_l the depth of layer l from -1/2 to 1/2, the family is

    w_l(s) = u_l(s) * prod_k (f_kl(s) / u_l(s)) ** weight_k * exp(slope * d_l):

All weights 0 give uniform scaling; a single weight of 1 gives that law. Weights may be outside
0 to 1. A layer whose width would fall as the network grows instead grows very slowly, so that every
member fits every feasible budget. s is the size relative to the base network's, so that laws of
different metrics can be multiplied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nsopt.scaling.cost import CostModel
from nsopt.scaling.law import PowerLaw

SLOPE = "slope"
_LEAST_BETA = 0.02


@dataclass(frozen=True, eq=False)
class LawFamily:
    """Laws with L layers over relative size: `uniform` is u, `others` are f_k by name."""

    uniform: PowerLaw
    others: Mapping[str, PowerLaw]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters: one weight per law, named like it, and the slope."""
        return (*self.others, SLOPE)

    def law(self, parameters: Mapping[str, float]) -> PowerLaw:
        """Return the member with these parameters; missing ones are 0."""
        law = self.uniform
        for name, other in self.others.items():
            weight = parameters.get(name, 0.0)
            if weight:  # a weight of 0 adds no uncertainty
                law = law * (other * self.uniform**-1) ** weight
        depth = np.linspace(-0.5, 0.5, law.layers) if law.layers > 1 else np.zeros(1)
        tilt = np.exp(parameters.get(SLOPE, 0.0) * depth)
        return replace(law, alpha=law.alpha * tilt, beta=np.maximum(law.beta, _LEAST_BETA))


def relative_uniform(base_widths: Sequence[int]) -> PowerLaw:
    """Return uniform scaling over relative size, which grows with the square of the widths."""
    base = np.asarray(base_widths, dtype=np.float64)
    return PowerLaw(base, np.full(len(base), 0.5), np.ones(len(base)))


def relative(law: PowerLaw, cost: CostModel, base_widths: Sequence[int]) -> PowerLaw:
    """Convert a law over a `cost` to one over its ratio to the cost of the base network."""
    base = float(cost(base_widths))
    error = None if law.error is None else law.error.per_unit(base)
    return replace(law, alpha=law.widths(base), error=error)
