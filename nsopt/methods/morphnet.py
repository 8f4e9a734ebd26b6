"""MorphNet-style scaling (Gordon et al., CVPR 2018): its first iteration, as in the paper."""

from nsopt.methods.base import LawInputs, Method
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import ScalingLaw, uniform_curve

_FRACTION = 0.5


class MorphNet(Method):
    """Prunes the network by Taylor importance to half its filters, and scales the rest."""

    name = "morphnet"
    label = "MorphNet-style"

    def search_iterations(self, settings: SearchSettings) -> int:
        return 1

    def law(self, inputs: LawInputs) -> ScalingLaw:
        trajectory = inputs.iterations[0].trajectory
        return uniform_curve(trajectory.at_fraction(_FRACTION, inputs.arch.channels_per_unit))
