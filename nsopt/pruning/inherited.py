"""Smaller networks that inherit the most important units of a trained one.

How accurate one of them can become shows before it is trained: its BatchNorm statistics are
measured anew on a few batches, then its accuracy on held-out images (EagleEye, Li et al., ECCV
2020).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from nsopt.compute.device import Compute, place
from nsopt.compute.random_state import seeded
from nsopt.data.images import Splits
from nsopt.models.architecture import Architecture
from nsopt.models.layout import inputs_for
from nsopt.pruning.engine import ShrinkingNetwork
from nsopt.pruning.ranking import UnitRanking, join_streams
from nsopt.pruning.settings import SearchSettings
from nsopt.pruning.supervision import Batches, Supervision
from nsopt.training.evaluation import accuracy_on


@dataclass(frozen=True, eq=False)
class TrainedStart:
    """A trained network of base widths, and the ranking of its units."""

    arch: Architecture
    model: nn.Module
    ranking: UnitRanking

    def network(self, widths: Sequence[int]) -> nn.Module:
        """Return a network of `widths` with the units of highest score.

        Units beyond those of the trained network are freshly initialised.
        """
        return self.arch.inherit(self.model, self.ranking.strongest(tuple(widths)), widths)


def rank_by_importance(
    arch: Architecture,
    model: nn.Module,
    supervision: Supervision,
    settings: SearchSettings,
    compute: Compute,
    batches: int,
) -> UnitRanking:
    """Rank the units of a trained network by their Taylor importance (paper, equation 4).

    Args:
        model: of base widths; it stays as it is.
        supervision: on the device of `compute`.
        batches: over which the importance is averaged.
    """
    with compute.computing():
        network = ShrinkingNetwork(arch, arch.base_widths, supervision, settings, compute, model)
        for _ in range(batches):
            compute.give_way()
            network.train_batch(lr=0.0, score=True)
    return join_streams([scores.cpu().double() for scores in network.importance()], arch.streams)


def inherit_network(
    start: TrainedStart,
    widths: Sequence[int],
    supervision: Supervision,
    compute: Compute,
    batch_size: int = 128,
    batches: int = 10,
) -> nn.Module:
    """Return a network of `widths` that inherits from a trained one, inside `computing`.

    The statistics of its BatchNorm layers are those of some training batches.

    Args:
        supervision: of the batches, on the device of `compute`.
        batches: how many batches of `batch_size` examples.
    """
    model = place(start.network(widths), compute.device, start.arch.layout)
    data = supervision.batches(batch_size, seed=0)
    with compute.autocast():
        update_bn(_inputs(model, data, batches, compute), model)
    return model


def score(
    start: TrainedStart,
    widths: Sequence[int],
    supervision: Supervision,
    splits: Splits,
    compute: Compute,
) -> float:
    """Return the validation accuracy (%) that inherited weights of `widths` have before training.

    Args:
        supervision: of the batches that BatchNorm's statistics are measured on.
        splits: with the validation images, on the device of `compute`.
    """
    with compute.computing(), seeded(0, compute.device):
        model = inherit_network(start, widths, supervision, compute)
        return accuracy_on(splits.validation, model, splits, compute)


def _inputs(model: nn.Module, data: Batches, count: int, compute: Compute) -> Iterator[Tensor]:
    for _ in range(count):
        compute.give_way()
        yield inputs_for(model, data.next()[0])
