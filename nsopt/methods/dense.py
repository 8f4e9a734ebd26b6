"""The trained network that a study starts from, as it is."""

from nsopt.methods.base import LawInputs, Method
from nsopt.scaling.law import ScalingLaw, uniform_curve


class Dense(Method):
    """The row that smaller networks are read beside; it has its own size alone."""

    name = "dense"
    label = "Trained network"
    inherits_weights = True
    keeps_weights = True

    def law(self, inputs: LawInputs) -> ScalingLaw:
        return uniform_curve(inputs.arch.base_widths)

    def supports(self, budget: float, base_cost: float) -> bool:
        return budget == base_cost
