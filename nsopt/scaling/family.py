"""A family of power laws around uniform scaling.

Power laws multiplied and raised to powers are power laws. With u the uniform law, f_1, f_2, ...
others and d_l the depth of layer l from -1/2 to 1/2, the family is

    w_l(s) = u_l(s) * prod_k (f_kl(s) / u_l(s)) ** weight_k * exp(slope * d_l):

all weights 0 give uniform scaling, one weight of 1 gives that law. Weights may lie outside 0 to 1.
A layer whose width would fall as the network grows nearly keeps its width, but grows, so that every
member fits every budget that one filter a layer fits. s is a size relative to that of the base
network, so that laws of different metrics can be multiplied.
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
    """uniform: u; others: f_k by name; all with relative sizes as scale, of L layers."""

    uniform: PowerLaw
    others: Mapping[str, PowerLaw]

    @property
    def parameters(self) -> tuple[str, ...]:
        """What a member is told by: a weight a law, by its name, and the slope."""
        return (*self.others, SLOPE)

    def law(self, parameters: Mapping[str, float]) -> PowerLaw:
        """A member; what `parameters` does not name is 0."""
        law = self.uniform
        for name, other in self.others.items():
            weight = parameters.get(name, 0.0)
            if weight:  # what has none adds no uncertainty
                law = law * (other * self.uniform**-1) ** weight
        depth = np.linspace(-0.5, 0.5, law.layers) if law.layers > 1 else np.zeros(1)
        tilt = np.exp(parameters.get(SLOPE, 0.0) * depth)
        return replace(law, alpha=law.alpha * tilt, beta=np.maximum(law.beta, _LEAST_BETA))


def relative_uniform(base_widths: Sequence[int]) -> PowerLaw:
    """Uniform scaling over relative size: a size grows with the square of the widths."""
    base = np.asarray(base_widths, dtype=np.float64)
    return PowerLaw(base, np.full(len(base), 0.5), np.ones(len(base)))


def relative(law: PowerLaw, cost: CostModel, base_widths: Sequence[int]) -> PowerLaw:
    """A law over tau as one over tau relative to the base network's. cost: in the unit of tau."""
    base = float(cost(base_widths))
    error = None if law.error is None else law.error.per_unit(base)
    return replace(law, alpha=law.widths(base), error=error)
