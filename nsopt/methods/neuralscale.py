"""NeuralScale (Lee & Lee, CVPR 2020): the power law that is fitted to pruning."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.methods.base import LawInputs, Method
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.record import Iteration
from nsopt.settings import Price

_NAME = "neuralscale"
_LABEL = "NeuralScale"
_COUNTED = {"filters": "filters", "params": "parameters", "macs": "MACs"}
_VARIANT = re.compile(rf"{_NAME}(-(?P<price>{'|'.join(_COUNTED)}))?(-iter(?P<iteration>[1-9]\d*))?")


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
