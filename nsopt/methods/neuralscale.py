"""NeuralScale (Lee & Lee, CVPR 2020): the power law that pruning gives."""

import re
from dataclasses import dataclass

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.methods.base import LawInputs, Method
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import ScalingLaw

_NAME = "neuralscale"
_LABEL = "NeuralScale"


@dataclass(frozen=True)
class NeuralScale(Method):
    """The law of descent iteration `iteration`, counted from 1; None for the last one."""

    iteration: int | None = None
    by_algorithm_3 = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return _NAME if self.iteration is None else f"{_NAME}-iter{self.iteration}"

    @property
    def label(self) -> str:  # type: ignore[override]
        return _LABEL if self.iteration is None else f"{_LABEL}, iteration {self.iteration}"

    def search_iterations(self, settings: SearchSettings) -> int:
        if self.iteration is None:
            return settings.iterations
        if self.iteration > settings.iterations:
            raise NsoptError(
                f"{self.name} needs --iterations {self.iteration} or more, "
                f"not {settings.iterations}"
            )
        return self.iteration

    def law(self, inputs: LawInputs) -> ScalingLaw:
        done = len(inputs.iterations)
        if self.iteration is not None and self.iteration > done:
            raise NoWidthsError(f"{self.name}: descent converged after {done} iterations")
        return inputs.iterations[(self.iteration or done) - 1].law

    def variant(self, name: str) -> "NeuralScale | None":
        match = re.fullmatch(rf"{_NAME}-iter([1-9]\d*)", name)
        return NeuralScale(int(match[1])) if match else None
