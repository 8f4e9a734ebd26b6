"""What a method of scaling is to those that search, train and compare."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.cost import CostModel
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.record import Iteration
from nsopt.settings import Price

if TYPE_CHECKING:  # reports name methods and need no torch
    from torch import nn

    from nsopt.models.architecture import Architecture


@dataclass(frozen=True, eq=False)
class LawInputs:
    """What a method may make its law from.

    iterations: of architecture descent with the method's price, at least as many as it asked for,
    unless descent converged before; trained: the network of base widths, trained with the trial's
    seed, if it asked for it; tuned: the law that was tuned for the metric of the budget, if it
    asked for it.
    """

    arch: "Architecture"
    cost: CostModel
    budget: float
    iterations: Sequence[Iteration] = ()
    trained: "nn.Module | None" = None
    tuned: ScalingLaw | None = None


class Method(ABC):
    """A way to make a scaling law, which is then solved for the budgets of a comparison.

    name: its word on the command line and in storage, without a slash; label: its name in reports;
    needs_trained_network: whether `LawInputs.trained` must be there; inherits_weights: whether its
    networks then begin with weights of that one (`start`) and are fine-tuned; by_algorithm_3:
    whether `--eta` replaces the exact solver for it; price: of the search that it needs, None for
    that of the study's settings; needs_tuned_law: whether `LawInputs.tuned` must be there;
    keeps_weights: whether its network is the one that the study starts from, which is measured and
    not trained.
    """

    name: str
    label: str
    needs_trained_network: bool = False
    inherits_weights: bool = False
    by_algorithm_3: bool = False
    price: Price | None = None
    needs_tuned_law: bool = False
    keeps_weights: bool = False

    @abstractmethod
    def law(self, inputs: LawInputs) -> ScalingLaw:
        """The law, whose widths are solved for `inputs.budget`; NoWidthsError if there is none.

        Without a trained network it must be the same for all budgets and seeds.
        """

    def search_iterations(self, settings: SearchSettings) -> int:
        """How many iterations of architecture descent it needs; NsoptError for more than run."""
        return 0

    def fitted_to(self, iterations: Sequence[Iteration]) -> Iteration | None:
        """The iteration of a search to whose record its law is fitted; None if it is to none."""
        return None

    def supports(self, budget: float, base_cost: float) -> bool:
        """Whether it has widths to offer at a budget; base_cost: of the base widths."""
        return True

    def start(
        self, arch: "Architecture", widths: tuple[int, ...], trained: "nn.Module"
    ) -> "nn.Module":
        """The network of `widths` that fine-tuning begins with, where it inherits weights."""
        raise NotImplementedError(f"{self.name} trains from scratch")

    def variant(self, name: str) -> "Method | None":
        """The method of the same family that `name` means; None if it means none."""
        return None
