"""How closely small networks follow the trained one: by their outputs, before fine-tuning.

The divergence uses all class probabilities of an image, not only whether the largest one is right.
It ranks networks of VGG11 better than accuracy does, others about as well
(`benchmarks/score_ranks.py`).
"""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from torch.nn.functional import kl_div

from nsopt.compute.device import Compute, place
from nsopt.data.images import Splits
from nsopt.pruning.inherited import TrainedStart
from nsopt.training.evaluation import outputs_on

_CERTAIN = 1.64  # standard errors of a difference: 5 % of chance differences are larger
_FAR = 100.0  # a divergence that is as bad as an infinite one


@dataclass(frozen=True, eq=False)
class Agreement:
    """A network beside the trained one, on N validation images.

    Attributes:
        divergences: Kullback-Leibler divergence for each image, float32 (N,): the sum of
            `p (log p - log q)` over the classes, where p are the probabilities of the trained
            network and q those of the network. Infinite if q are not numbers.
        accuracy: of the network (%).
    """

    divergences: Tensor
    accuracy: float

    @property
    def percentage(self) -> float:
        """`100 exp(-d)`, where d is the mean divergence: 100 for equal outputs."""
        return 100 * math.exp(-float(self.divergences.mean()))


def is_closer(one: Agreement, other: Agreement) -> bool:
    """Return whether one network is closer to the trained one, beyond the error of the images.

    A single image has no known error: False.
    """
    gain = other.divergences.clamp(max=_FAR) - one.divergences.clamp(max=_FAR)
    return bool(gain.mean() > _CERTAIN * gain.std(correction=0) / math.sqrt(len(gain) - 1))


@dataclass(frozen=True, eq=False)
class Comparer:
    """Compares networks with a trained one on validation images.

    Attributes:
        start: the trained network.
        splits: the images.
        compute: the device.
    """

    start: TrainedStart
    splits: Splits
    compute: Compute

    def compare(self, model: nn.Module) -> Agreement:
        """Compare a network in evaluation mode on the device; inside `computing`."""
        logits = self._run(model)
        divergences = kl_div(
            logits.log_softmax(1), self._target, reduction="none", log_target=True
        ).sum(1)
        right = logits.argmax(1) == self.splits.validation.labels.cpu()
        return Agreement(divergences.nan_to_num(nan=math.inf), 100 * int(right.sum()) / len(right))

    @cached_property
    def _target(self) -> Tensor:
        """Logarithms of the trained network's probabilities, (N, classes)."""
        model = place(self.start.model, self.compute.device, self.start.arch.layout)
        return self._run(model).log_softmax(1)

    def _run(self, model: nn.Module) -> Tensor:
        return outputs_on(self.splits.validation, model, self.splits, self.compute)
