"""The law that scored best at a budget, before training."""

from nsopt.methods.base import LawInputs, Method
from nsopt.scaling.law import ScalingLaw


class Scored(Method):
    """Takes the law that `nsopt compress` scored best at the budget."""

    name = "scored"
    label = "Scored law"
    needs_scored_law = True

    def law(self, inputs: LawInputs) -> ScalingLaw:
        assert inputs.scored is not None
        return inputs.scored
