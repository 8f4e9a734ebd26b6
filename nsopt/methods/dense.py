"""The unchanged trained network from which a study starts."""

from nsopt.methods.base import LawInputs, Method
from nsopt.scaling.law import ScalingLaw, uniform_curve
from nsopt.storage import schema


class Dense(Method):
    """Measures the trained network, to compare smaller ones with it. It has only its own size."""

    name = schema.DENSE
    label = "Trained network"
    keeps_weights = True

    def law(self, inputs: LawInputs) -> ScalingLaw:
        return uniform_curve(inputs.arch.base_widths)

    def supports(self, budget: float, base_cost: float) -> bool:
        return budget == base_cost
