"""The ranking of a trained network's units: which ones stay at given widths.

Magnitude pruning (Li et al., ICLR 2017) ranks the filters of one layer by their L1 norm. To compare
layers, `rank_filters` divides the norm of a filter by the mean of its layer. Filters of smallest
relative norm are pruned first, in any layer.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NoWidthsError
from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import CostModel, FloatArray, IntArray, width_limits

_OF_COST, _OF_UNITS = 0.05, 0.01  # removed before what units save is counted anew
_LEAST_PRICE = 1e-12  # of a unit that saves nothing


@dataclass(frozen=True, eq=False)
class UnitRanking:
    """Scores of units. Units of low score are removed first, in any layer.

    Layers whose channels are added to each other form a stream and lose the same channels. The
    network that is left then computes what the whole network would with the other channels at zero.

    Attributes:
        scores: per layer, the scores of its units, a tensor (w_l,); equal for all layers of a
            stream.
        streams: per layer, the index of the first layer of its stream.
    """

    scores: tuple[Tensor, ...]
    streams: tuple[int, ...]

    def widths_within(self, cost: CostModel, budget: float) -> tuple[int, ...]:
        """Return the widths after removing just enough units to cost at most `budget`.

        Every layer keeps the smallest width that it can have.

        Raises:
            NoWidthsError: if the network exceeds the budget even then.
        """
        return self._remove(cost, budget, 1.0, 1.0)

    def widths_per_cost(self, cost: CostModel, budget: float) -> tuple[int, ...]:
        """Return the widths after removing the units of lowest score for what each saves.

        What they save is counted anew whenever the network costs a twentieth less, or has lost a
        hundredth of its units.

        Raises:
            NoWidthsError: if the network exceeds the budget even then.
        """
        left, widths = self, tuple(map(len, self.scores))
        while cost(widths) > budget:
            widths = left.per_cost(cost)._remove(cost, budget, _OF_COST, _OF_UNITS)
            kept = left.pick_strongest(widths)
            scores = [score[units] for score, units in zip(left.scores, kept, strict=True)]
            left = UnitRanking(tuple(scores), self.streams)
        return widths

    def per_cost(self, cost: CostModel) -> "UnitRanking":
        """Return the ranking by score for what a unit of the ranked network costs.

        A unit of a stream leaves all its layers. Its score is a mean over them, and so is its cost.
        """
        prices = np.asarray(cost.marginal(tuple(map(len, self.scores))), np.float64)
        streams = np.array(self.streams)
        prices = np.array([prices[streams == stream].mean() for stream in self.streams])
        prices = np.maximum(prices, _LEAST_PRICE)
        scores = [score / float(price) for score, price in zip(self.scores, prices, strict=True)]
        return UnitRanking(tuple(scores), self.streams)

    def pick_strongest(self, widths: tuple[int, ...]) -> list[Tensor]:
        """Return ascending indices of the at most `widths[l]` units of highest score per layer."""
        return [
            scores.argsort(descending=True, stable=True)[:width].sort().values
            for scores, width in zip(self.scores, widths, strict=True)
        ]

    def _remove(
        self, cost: CostModel, budget: float, of_cost: float, of_units: float
    ) -> tuple[int, ...]:
        """Return the widths after removing at most these shares of the cost and of the units."""
        removals = self._list_removals(width_limits(cost, len(self.scores))[0])
        costs = np.asarray(cost(removals))
        if (costs > budget).all():
            raise NoWidthsError(
                f"no widths fit a budget of {budget:,}: the smallest feasible one is {costs[-1]:,}"
            )
        left = removals.sum(axis=1)  # units that cannot be removed are weak, too
        cheaper = costs <= max(budget, (1 - of_cost) * costs[0])
        enough = cheaper | (left <= (1 - of_units) * left[0])
        return tuple(removals[np.flatnonzero(enough)[0]].tolist())

    def _list_removals(self, narrowest: FloatArray) -> IntArray:
        """Return the widths (N, L) after each removal, weakest units first."""
        start = np.array([len(scores) for scores in self.scores])
        firsts = sorted(set(self.streams))
        stream_of = np.repeat(firsts, start[firsts])
        ranked = torch.cat([self.scores[first] for first in firsts]).argsort(stable=True)
        members = np.array(self.streams)[None] == stream_of[ranked.numpy()][:, None]
        removed = np.cumsum(members, axis=0, dtype=np.int64)
        left: IntArray = start - np.vstack([np.zeros_like(start), removed])
        return left.clip(min=narrowest.astype(np.int64))


def join_streams(own: list[Tensor], streams: tuple[int, ...]) -> UnitRanking:
    """Return the ranking by the mean score over the layers of a stream.

    Args:
        own: per layer, the scores of its units.
        streams: see `UnitRanking`.
    """
    scores = []
    for first in streams:
        members = [s for s, stream in zip(own, streams, strict=True) if stream == first]
        scores.append(torch.stack(members).mean(dim=0))
    return UnitRanking(tuple(scores), streams)


def rank_filters(arch: Architecture, model: nn.Module) -> UnitRanking:
    """Rank the filters of a trained `model` by relative norm, averaged over a stream's layers."""
    return join_streams(arch.filter_norms(model), arch.streams)
