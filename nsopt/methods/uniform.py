"""Uniform scaling: the base widths times a factor."""

from nsopt.methods.base import Evidence, Method
from nsopt.scaling.law import ScalingLaw, uniform_curve


class Uniform(Method):
    """Every layer by the same multiplier."""

    name = "uniform"
    label = "Uniform"

    def law(self, evidence: Evidence) -> ScalingLaw:
        return uniform_curve(evidence.arch.base_widths)
