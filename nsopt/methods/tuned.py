"""Laws that Optuna studies found: by short trainings, or by scores at a budget."""

from nsopt.methods.base import LawInputs, Method
from nsopt.scaling.law import ScalingLaw


class _FoundLaw(Method):
    def law(self, inputs: LawInputs) -> ScalingLaw:
        assert inputs.tuned is not None
        return inputs.tuned


class Tuned(_FoundLaw):
    """Takes the law that `nsopt tune --over curve` found for the budget's metric.

    The tuning was on the same network, data and preset.
    """

    name = "tuned"
    label = "Tuned"
    needs_tuned_law = True


class Scored(_FoundLaw):
    """Takes the law that `nsopt compress` scored best at the budget, before training."""

    name = "scored"
    label = "Scored law"
    needs_scored_law = True
