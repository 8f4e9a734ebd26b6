"""The unchanged trained network from which a study starts."""

from nsopt.methods.uniform import Uniform
from nsopt.storage import schema


class Dense(Uniform):
    """Measures the trained network, to compare smaller ones with it. It has only its own size."""

    name = schema.DENSE
    label = "Trained network"
    keeps_weights = True

    def supports(self, budget: float, base_cost: float) -> bool:
        return budget == base_cost
