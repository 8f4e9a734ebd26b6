"""The built-in methods: NeuralScale, and the baselines to which the paper compares it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.methods.base import LawInputs, Method
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import ScalingLaw, uniform_curve
from nsopt.scaling.record import Iteration
from nsopt.settings import Price
from nsopt.storage import schema

if TYPE_CHECKING:
    from torch import nn

    from nsopt.models.architecture import Architecture

# pruning.ranking imports torch, which commands that only name the method should not.
# ruff: noqa: PLC0415

_FRACTION = 0.5  # of the filters, that MorphNet keeps
_NAME = "neuralscale"
_LABEL = "NeuralScale"
_COUNTED = {"filters": "filters", "params": "parameters", "macs": "MACs"}
_VARIANT = re.compile(rf"{_NAME}(-(?P<price>{'|'.join(_COUNTED)}))?(-iter(?P<iteration>[1-9]\d*))?")


class Uniform(Method):
    """Scales every layer by the same factor."""

    name = schema.UNIFORM
    label = "Uniform"

    def law(self, inputs: LawInputs) -> ScalingLaw:
        return uniform_curve(inputs.arch.base_widths)


class Dense(Uniform):
    """Measures the trained network, to compare smaller ones with it. It has only its own size."""

    name = schema.DENSE
    label = "Trained network"
    keeps_weights = True

    def supports(self, budget: float, base_cost: float) -> bool:
        return budget == base_cost


class Magnitude(Method):
    """Magnitude pruning (Li et al., ICLR 2017), fine-tuned.

    It prunes the trained network by L1 norm until it fits the budget, and keeps its weights.
    """

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


class MorphNet(Method):
    """MorphNet-style scaling (Gordon et al., CVPR 2018): its first iteration, as in the paper.

    It prunes the network by Taylor importance to half its filters, and scales the rest.
    """

    name = "morphnet"
    label = "MorphNet-style"

    def search_iterations(self, settings: SearchSettings) -> int:
        return 1

    def law(self, inputs: LawInputs) -> ScalingLaw:
        trajectory = inputs.iterations[0].trajectory
        return uniform_curve(trajectory.at_fraction(_FRACTION, inputs.arch.channels_per_unit))


@dataclass(frozen=True)
class NeuralScale(Method):
    """Takes the law of descent iteration `iteration`, counted from 1; None takes the last."""

    iteration: int | None = None
    price: Price | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        by = f"-{self.price}" if self.price else ""
        return f"{_NAME}{by}" + (f"-iter{self.iteration}" if self.iteration else "")

    @property
    def label(self) -> str:  # type: ignore[override]
        by = f" by {_COUNTED[self.price]}" if self.price else ""
        return f"{_LABEL}{by}" + (f", iteration {self.iteration}" if self.iteration else "")

    def search_iterations(self, settings: SearchSettings) -> int:
        if self.iteration is None:
            return settings.iterations
        if self.iteration > settings.iterations:
            raise NsoptError(
                f"{self.name} needs iterations={self.iteration} or more, not {settings.iterations}"
            )
        return self.iteration

    def fitted_to(self, iterations: Sequence[Iteration]) -> Iteration | None:
        number = self.iteration or len(iterations)
        return iterations[number - 1] if 0 < number <= len(iterations) else None

    def law(self, inputs: LawInputs) -> ScalingLaw:
        fitted = self.fitted_to(inputs.iterations)
        if fitted is None:
            done = len(inputs.iterations)
            raise NoWidthsError(f"{self.name}: descent converged at iteration {done}: take that")
        return fitted.law

    def variant(self, name: str) -> "NeuralScale | None":
        match = _VARIANT.fullmatch(name)
        if match is None:
            return None
        iteration = int(match["iteration"]) if match["iteration"] else None
        return NeuralScale(iteration, cast("Price | None", match["price"]))
