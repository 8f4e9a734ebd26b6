"""A law that an Optuna study tuned for a metric (`nsopt tune --over curve`)."""

from nsopt.methods.base import LawInputs, Method
from nsopt.scaling.law import ScalingLaw


class Tuned(Method):
    """Takes the law tuned for the budget's metric, on the same network, data and preset."""

    name = "tuned"
    label = "Tuned"
    needs_tuned_law = True

    def law(self, inputs: LawInputs) -> ScalingLaw:
        assert inputs.tuned is not None
        return inputs.tuned
