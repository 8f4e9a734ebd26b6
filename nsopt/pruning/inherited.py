"""Smaller networks that inherit the most important units of a trained one.

These functions take a `supervision` on the device of `compute`, and raise OutOfMemoryError if a
batch does not fit it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim.swa_utils import update_bn

from nsopt.compute.device import Compute, explain_out_of_memory, place, use_seed
from nsopt.inputs import call_network
from nsopt.models.architecture import Architecture
from nsopt.models.networks import inputs_for
from nsopt.pruning.engine import ShrinkingNetwork
from nsopt.pruning.ranking import UnitRanking, join_streams
from nsopt.pruning.settings import SearchSettings
from nsopt.tasks.supervision import Batches, Supervision
from nsopt.training.kernels import fast_kernels

_RANKING_BATCHES = 20  # over which importance is averaged
_BATCHES = 10  # for the statistics of BatchNorm


@dataclass(frozen=True, eq=False)
class TrainedStart:
    """A trained network, and how others inherit from it.

    Attributes:
        model: the network, of the base widths of `arch`.
        ranking: of its units.
        batch_size: images per batch for the statistics of BatchNorm.
    """

    arch: Architecture
    model: nn.Module
    ranking: UnitRanking
    batch_size: int = 128

    def build(self, widths: Sequence[int]) -> nn.Module:
        """Return a network of `widths` with the most important units of the trained one.

        Units beyond those of the trained network are freshly initialised.
        """
        return self.arch.inherit(self.model, self.ranking.pick_strongest(tuple(widths)), widths)


def rank_by_importance(
    arch: Architecture,
    model: nn.Module,
    supervision: Supervision,
    settings: SearchSettings,
    compute: Compute,
    batches: int = _RANKING_BATCHES,
) -> UnitRanking:
    """Rank the units of a trained network by their Taylor importance (paper, equation 4).

    Args:
        model: a network of the base widths; it does not change.
        batches: number of mini-batches over which the importance is averaged.
    """
    limit = explain_out_of_memory(compute.device, supervision.batch_size(settings.batch_size))
    with limit:
        network = ShrinkingNetwork(arch, arch.base_widths, supervision, settings, compute, model)
        with fast_kernels(network.model):
            for _ in range(batches):
                network.train_batch(lr=0.0, score=True)
    return join_streams([scores.cpu().double() for scores in network.scores.mean()], arch.streams)


def inherit_network(
    start: TrainedStart, widths: Sequence[int], supervision: Supervision, compute: Compute
) -> nn.Module:
    """Return a network of `widths` that inherits from a trained one.

    The statistics of its BatchNorm layers come from a few training batches.
    """
    limit = explain_out_of_memory(compute.device, supervision.batch_size(start.batch_size))
    with limit, use_seed(0, compute.device):
        model = place(start.build(widths), compute.device, start.arch.layout)
        _measure_statistics(model, supervision.batches(start.batch_size, seed=0), compute)
    return model


def _measure_statistics(model: nn.Module, data: Batches, compute: Compute) -> None:
    """Measure the statistics of BatchNorm on a few batches, at most an epoch.

    It may leave the network in training mode.
    """
    with compute.autocast():
        update_bn(_yield_inputs(model, data), _OfOneInput(model))


def _yield_inputs(model: nn.Module, data: Batches) -> Iterator[tuple[Any]]:
    for _ in range(min(_BATCHES, data.per_epoch)):
        yield (inputs_for(model, data.next()[0]),)


class _OfOneInput(nn.Module):
    """A network that takes a tensor, or a tuple of arguments: `update_bn` passes one input on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Any:
        return call_network(self.model, inputs)
