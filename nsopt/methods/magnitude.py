"""Magnitude pruning of a trained network (Li et al., ICLR 2017), fine-tuned."""

from typing import TYPE_CHECKING

from nsopt.methods.base import LawInputs, Method
from nsopt.scaling.law import ScalingLaw, uniform_curve

if TYPE_CHECKING:
    from torch import nn

    from nsopt.models.architecture import Architecture

# pruning.ranking imports torch, which commands that only name the method should not.
# ruff: noqa: PLC0415


class Magnitude(Method):
    """Prunes the trained network by L1 norm until it fits the budget, and keeps its weights."""

    name = "magnitude"
    label = "Magnitude (Li et al.)"
    needs_trained_network = True

    def law(self, inputs: LawInputs) -> ScalingLaw:
        """Return the law that scales the pruned widths up to the budget."""
        from nsopt.pruning.ranking import rank_filters

        assert inputs.trained is not None
        ranking = rank_filters(inputs.arch, inputs.trained)
        return uniform_curve(ranking.widths_within(inputs.cost, inputs.budget))

    def supports(self, budget: float, base_cost: float) -> bool:
        return budget < base_cost

    def start(
        self, arch: "Architecture", widths: tuple[int, ...], trained: "nn.Module"
    ) -> "nn.Module":
        """Return the network of the trained filters with the largest norms."""
        from nsopt.pruning.ranking import rank_filters

        return arch.inherit(trained, rank_filters(arch, trained).pick_strongest(widths), widths)
