"""Pruning a trained network by the L1 norm of its filters (Li et al., ICLR 2017).

Li et al. rank the filters of one layer. To compare layers, a filter's norm is divided by the mean
norm of its layer; the filters of smallest relative norm go first, whichever layer they are in.
Layers whose channels are added to each other lose the same ones, so that what is left computes as
the whole network would with the others at zero.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NoWidthsError
from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import CostModel, IntArray, width_limits
from nsopt.scaling.law import FloatArray


@dataclass(frozen=True, eq=False)
class MagnitudeRanking:
    """norms: per searched layer, the relative L1 norms of its filters, a tensor (w_l,), summed over
    the layers of its stream; streams: per layer, the first one of it."""

    norms: tuple[Tensor, ...]
    streams: tuple[int, ...]

    def widths_within(self, cost: CostModel, budget: float) -> tuple[int, ...]:
        """Widths when just enough filters are removed to cost at most `budget`.

        Every layer keeps the fewest filters that it can have. NoWidthsError if even then the
        budget is exceeded.
        """
        removals = self._removals(width_limits(cost, len(self.norms))[0])
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

    def _removals(self, narrowest: FloatArray) -> IntArray:
        """Widths (N, L) while the weakest filters go, one stream's after the other."""
        start = np.array([len(norms) for norms in self.norms])
        firsts = sorted(set(self.streams))
        stream_of = np.repeat(firsts, start[firsts])
        ranked = torch.cat([self.norms[first] for first in firsts]).argsort(stable=True)
        members = np.array(self.streams)[None] == stream_of[ranked.numpy()][:, None]
        removed = np.cumsum(members, axis=0, dtype=np.int64)
        left: IntArray = start - np.vstack([np.zeros_like(start), removed])
        return left.clip(min=narrowest.astype(np.int64))


def rank_filters(arch: Architecture, model: nn.Module) -> MagnitudeRanking:
    """Rank the filters of a trained `model`; of a stream, by the mean of their relative norms."""
    own, streams = arch.filter_norms(model), arch.streams
    norms = []
    for first in streams:
        members = [n for n, stream in zip(own, streams, strict=True) if stream == first]
        norms.append(torch.stack(members).mean(dim=0))
    return MagnitudeRanking(tuple(norms), streams)
