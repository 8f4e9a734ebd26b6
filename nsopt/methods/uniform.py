"""Uniform scaling: the base widths times a factor."""

from nsopt.methods.base import LawInputs, Method
from nsopt.scaling.law import ScalingLaw, uniform_curve


class Uniform(Method):
    """Every layer by the same multiplier."""

    name = "uniform"
    label = "Uniform"

    def law(self, inputs: LawInputs) -> ScalingLaw:
        return uniform_curve(inputs.arch.base_widths)
