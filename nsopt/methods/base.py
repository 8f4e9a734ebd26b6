"""The interface of a scaling method."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.cost import CostModel
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.record import Iteration
from nsopt.settings import Price

if TYPE_CHECKING:  # reports use methods without torch
    from torch import nn

    from nsopt.models.architecture import Architecture


@dataclass(frozen=True, eq=False)
class LawInputs:
    """What a method may make its law from.

    Attributes:
        arch: the network.
        cost: maps widths (N, L) to costs (N,), in the unit of `budget`.
        budget: of the trial.
        iterations: of architecture descent with the method's price: at least as many as it needs,
            or fewer if descent converged.
        trained: the network of base widths, trained with the trial's seed, if the method needs it.
    """

    arch: "Architecture"
    cost: CostModel
    budget: float
    iterations: Sequence[Iteration] = ()
    trained: "nn.Module | None" = None


class Method(ABC):
    """A way to make a scaling law. A study solves the law for its budgets.

    Attributes:
        name: on the command line and in storage, without a slash.
        label: name in reports.
        needs_trained_network: whether it needs `LawInputs.trained`.
        price: of the search that it needs; None takes the price of the study's settings.
        keeps_weights: whether its network is the one from which the study starts, which is measured
            but not trained.
    """

    name: str
    label: str
    needs_trained_network: bool = False
    price: Price | None = None
    keeps_weights: bool = False

    @abstractmethod
    def law(self, inputs: LawInputs) -> ScalingLaw:
        """Return the law, which the study solves for `inputs.budget`.

        The law may depend on the budget only if `needs_trained_network`: any other law is also
        read without a budget (`read_stored_law`).

        Raises:
            NoWidthsError: if there is no law.
        """

    def search_price(self, settings: SearchSettings) -> Price:
        """Return the price of the search that it needs."""
        return self.price or settings.price

    def search_iterations(self, settings: SearchSettings) -> int:
        """Return how many iterations of architecture descent it needs.

        Raises:
            NsoptError: if the settings run fewer.
        """
        return 0

    def fitted_to(self, iterations: Sequence[Iteration]) -> Iteration | None:
        """Return the iteration of descent to which its law is fitted, or None.

        With `eta=` nsopt solves fitted laws with Algorithm 3.
        """
        return None

    def supports(self, budget: float, base_cost: float) -> bool:
        """Return whether it has widths at a budget; the base widths cost `base_cost`."""
        return True

    @property
    def inherits_weights(self) -> bool:
        """Whether its networks start from those of a trained one (`start`), or are it."""
        return self.keeps_weights or type(self).start is not Method.start

    def start(
        self, arch: "Architecture", widths: tuple[int, ...], trained: "nn.Module"
    ) -> "nn.Module":
        """Return the network of `widths` with inherited weights, from which fine-tuning starts."""
        raise NotImplementedError(f"{self.name} trains from scratch")

    def variant(self, name: str) -> "Method | None":
        """Return the variant of this method that is called `name`, or None."""
        return None
