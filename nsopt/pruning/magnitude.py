"""Pruning a trained network by the L1 norm of its filters (Li et al., ICLR 2017).

Li et al. rank the filters of one layer. To compare layers, a filter's norm is divided by the mean
norm of its layer; the filters of smallest relative norm go first, whichever layer they are in.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NoWidthsError
from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import CostModel, IntArray


@dataclass(frozen=True, eq=False)
class MagnitudeRanking:
    """norms: per searched layer, the relative L1 norms of its filters, a tensor (w_l,)."""

    norms: tuple[Tensor, ...]

    def widths_within(self, cost: CostModel, budget: float) -> tuple[int, ...]:
        """Widths when just enough filters are removed to cost at most `budget`.

        Every layer keeps one filter at least. NoWidthsError if even then the budget is exceeded.
        """
        removals = self._removals()
        costs = np.asarray(cost(removals))
        fitting = np.flatnonzero(costs <= budget)
        if fitting.size == 0:
            raise NoWidthsError(
                f"no widths fit a budget of {budget:,}: the smallest feasible one is {costs[-1]:,}"
            )
        return tuple(removals[fitting[0]].tolist())

    def strongest(self, widths: tuple[int, ...]) -> list[Tensor]:
        """Per layer, indices of its at most `widths[l]` filters of largest norm, in order."""
        return [
            norms.argsort(descending=True, stable=True)[:width].sort().values
            for norms, width in zip(self.norms, widths, strict=True)
        ]

    def _removals(self) -> IntArray:
        """Widths (N, L) while the weakest filters go, one after the other."""
        start = np.array([len(norms) for norms in self.norms])
        layer_of = np.repeat(np.arange(len(start)), start)
        weakest_first = layer_of[torch.cat(self.norms).argsort(stable=True).numpy()]
        removed = np.cumsum(np.eye(len(start), dtype=np.int64)[weakest_first], axis=0)
        left: IntArray = start - np.vstack([np.zeros_like(start), removed])
        return left.clip(min=1)


def rank_filters(arch: Architecture, model: nn.Module) -> MagnitudeRanking:
    """Rank the filters of a trained `model`; of tied layers, by the sum of their relative norms."""
    return MagnitudeRanking(tuple(arch.filter_norms(model)))
