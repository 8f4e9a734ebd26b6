"""Uniform scaling: the base widths times a factor."""

from nsopt.methods.base import LawInputs, Method
from nsopt.scaling.law import ScalingLaw, uniform_curve
from nsopt.storage import schema


class Uniform(Method):
    """Scales every layer by the same factor."""

    name = schema.UNIFORM
    label = "Uniform"

    def law(self, inputs: LawInputs) -> ScalingLaw:
        return uniform_curve(inputs.arch.base_widths)
