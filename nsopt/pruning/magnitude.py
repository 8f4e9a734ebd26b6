"""Prune a trained network by the L1 norm of its filters (Li et al., ICLR 2017).

Li et al. rank the filters of one layer. To compare layers, this divides a filter's norm by the mean
norm of its layer. The filters of smallest relative norm are pruned first, in any layer.
"""

from torch import nn

from nsopt.models.architecture import Architecture
from nsopt.pruning.ranking import UnitRanking, join_streams


def rank_filters(arch: Architecture, model: nn.Module) -> UnitRanking:
    """Rank the filters of a trained `model` by relative norm, averaged over a stream's layers."""
    return join_streams(arch.filter_norms(model), arch.streams)
