"""The law whose widths keep most of a trained network's accuracy at a budget, before training."""

from nsopt.methods.base import LawInputs, Method
from nsopt.scaling.law import ScalingLaw


class Scored(Method):
    """What the scores of `nsopt compress` found for the budget."""

    name = "scored"
    label = "Scored law"
    needs_scored_law = True

    def law(self, inputs: LawInputs) -> ScalingLaw:
        assert inputs.tuned is not None
        return inputs.tuned
