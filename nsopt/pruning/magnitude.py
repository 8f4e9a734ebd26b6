"""Pruning a trained network by the L1 norm of its filters (Li et al., ICLR 2017).

Li et al. rank the filters of one layer. To compare layers, a filter's norm is divided by the mean
norm of its layer; the filters of smallest relative norm go first, whichever layer they are in.
"""

from torch import nn

from nsopt.models.architecture import Architecture
from nsopt.pruning.ranking import UnitRanking, join_streams


def rank_filters(arch: Architecture, model: nn.Module) -> UnitRanking:
    """Rank the filters of a trained `model`; of a stream, by the mean of their relative norms."""
    return join_streams(arch.filter_norms(model), arch.streams)
