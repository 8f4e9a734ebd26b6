"""A family of power laws around uniform scaling.

Products and powers of power laws are power laws. Let u be the uniform law, f_1, f_2, ... other
laws, and d_l the depth of layer l from -1/2 to 1/2. The members of the family are

    w_l(s) = u_l(s) * prod_k (f_kl(s) / u_l(s)) ** weight_k * exp(slope * d_l).

If all weights are 0, this is uniform scaling; if only weight_k is 1, it is f_k. Weights may be
below 0 or above 1. If the width of a layer would fall as the network grows, the family lets it grow
very slowly instead, so that every member fits every feasible budget. The scale s is the size
relative to the base network, so that laws of different metrics can be multiplied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from nsopt.scaling.cost import CostModel
from nsopt.scaling.law import PowerLaw

SLOPE = "slope"
_LEAST_BETA = 0.02


@dataclass(frozen=True, eq=False)
class LawFamily:
    """A family of laws for L layers.

    Attributes:
        uniform: u, uniform scaling over relative size.
        others: f_k, the other laws over relative size, by name.
    """

    uniform: PowerLaw
    others: Mapping[str, PowerLaw]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters: the laws, for their weights, and the slope."""
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

    def with_members(self, widths: Mapping[str, Sequence[int]], cost: CostModel) -> Self:
        """Return a family with more members: networks, scaled like uniform ones.

        Args:
            widths: of the networks, by the name of the member.
        """
        base = self.uniform.alpha
        sizes = {name: float(cost(own)) / float(cost(base)) for name, own in widths.items()}
        members = {
            name: replace(self.uniform, alpha=np.array(own) / np.sqrt(sizes[name]))
            for name, own in widths.items()
        }
        return replace(self, others={**self.others, **members})


def relative_uniform(base_widths: Sequence[int]) -> PowerLaw:
    """Return uniform scaling over relative size, which grows with the square of the widths."""
    base = np.asarray(base_widths, dtype=np.float64)
    return PowerLaw(base, np.full(len(base), 0.5), np.ones(len(base)))


def relative(law: PowerLaw, cost: CostModel, base_widths: Sequence[int]) -> PowerLaw:
    """Convert a law over a `cost` to one over its ratio to the cost of the base network."""
    base = float(cost(base_widths))
    return replace(law, alpha=law.widths(base))
