"""The units of a trained network, ranked: which go first, and which stay at given widths."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nsopt.errors import NoWidthsError
from nsopt.scaling.cost import CostModel, IntArray, width_limits
from nsopt.scaling.law import FloatArray


@dataclass(frozen=True, eq=False)
class UnitRanking:
    """Scores of units; those of low scores go first, whichever layer they are in.

    scores: per searched layer, of its units, a tensor (w_l,), the same for all layers of a stream;
    streams: per layer, the first one of its stream. Layers whose channels are added to each other
    lose the same ones, so that what is left computes as the whole network would with the others at
    zero.
    """

    scores: tuple[Tensor, ...]
    streams: tuple[int, ...]

    def widths_within(self, cost: CostModel, budget: float) -> tuple[int, ...]:
        """Return the widths when just enough units are removed to cost at most `budget`.

        Every layer keeps the fewest units that it can have. NoWidthsError if even then the
        budget is exceeded.
        """
        removals = self._removals(width_limits(cost, len(self.scores))[0])
        costs = np.asarray(cost(removals))
        fitting = np.flatnonzero(costs <= budget)
        if fitting.size == 0:
            raise NoWidthsError(
                f"no widths fit a budget of {budget:,}: the smallest feasible one is {costs[-1]:,}"
            )
        return tuple(removals[fitting[0]].tolist())

    def strongest(self, widths: tuple[int, ...]) -> list[Tensor]:
        """Per layer, indices of its at most `widths[l]` units of highest score, in order."""
        return [
            scores.argsort(descending=True, stable=True)[:width].sort().values
            for scores, width in zip(self.scores, widths, strict=True)
        ]

    def _removals(self, narrowest: FloatArray) -> IntArray:
        """Widths (N, L) while the weakest units go, one stream's after the other."""
        start = np.array([len(scores) for scores in self.scores])
        firsts = sorted(set(self.streams))
        stream_of = np.repeat(firsts, start[firsts])
        ranked = torch.cat([self.scores[first] for first in firsts]).argsort(stable=True)
        members = np.array(self.streams)[None] == stream_of[ranked.numpy()][:, None]
        removed = np.cumsum(members, axis=0, dtype=np.int64)
        left: IntArray = start - np.vstack([np.zeros_like(start), removed])
        return left.clip(min=narrowest.astype(np.int64))


def join_streams(own: list[Tensor], streams: tuple[int, ...]) -> UnitRanking:
    """Return the ranking by the mean score of a stream's layers. own: per layer, of its units."""
    scores = []
    for first in streams:
        members = [s for s, stream in zip(own, streams, strict=True) if stream == first]
        scores.append(torch.stack(members).mean(dim=0))
    return UnitRanking(tuple(scores), streams)
