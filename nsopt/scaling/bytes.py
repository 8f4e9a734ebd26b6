"""Costs in bytes: numbers that a network holds, times the bytes of one."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from nsopt.scaling.cost import CostModel, Numbers

# By metric: what is counted, and the bytes of one number.
COUNTED_IN_BYTES = {
    "flash": ("params", 4),
    "flash-int8": ("params", 1),
    "memory": ("activations", 4),
    "memory-int8": ("activations", 1),
}


@dataclass(frozen=True, eq=False)
class ByteCost:
    """A `CostModel` in bytes. numbers: counts what a network holds; each: bytes of one number."""

    metric: str
    numbers: CostModel
    each: int

    def __call__(self, widths: ArrayLike) -> Any:
        return self.each * self.numbers(widths)

    def lower_bound(self, widths: ArrayLike) -> Any:
        """Return a lower bound on the cost that never falls as a width grows."""
        return self.each * self.numbers.lower_bound(widths)

    def marginal(self, widths: ArrayLike) -> Numbers:
        """Return what one more filter in each layer costs at these widths: (L,), or (N, L)."""
        return self.each * self.numbers.marginal(widths)
