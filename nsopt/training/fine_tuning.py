"""Additions to SGD for short trainings of inherited weights.

A linear schedule of the learning rate, distillation from a teacher (Hinton et al., 2015), and a
running average of the weights.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nsopt.training.settings import TrainSettings
from nsopt.training.step import Loss

_TEMPERATURE = 2.0  # of the softmax of teacher and student


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, batches: int
) -> LRScheduler:
    """Return the schedule of the learning rate, which steps after every batch.

    Args:
        batches: per epoch.
    """
    if settings.schedule is None:
        milestones = [batches * epoch for epoch in settings.milestones]
        return MultiStepLR(optimizer, milestones, settings.decay)
    rising, total = (settings.warmup_epochs or 0.0) * batches, settings.epochs * batches

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return (total - step) / (total - rising)

    return LambdaLR(optimizer, factor)


def distil(teacher: Tensor, weight: float) -> Loss:
    """Return the loss of a batch that mixes labels with the outputs of a teacher.

    Args:
        teacher: its logits for the batch, (B, classes).
        weight: of the teacher, from 0 to 1; the labels have the rest.
    """

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        student, target = (
            functional.log_softmax(logits.float() / _TEMPERATURE, dim=1)
            for logits in (outputs, teacher)
        )
        soft = functional.kl_div(student, target, reduction="batchmean", log_target=True)
        hard = functional.cross_entropy(outputs, labels)
        return torch.lerp(hard, soft * _TEMPERATURE**2, weight)

    return loss


def average_of(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return a running average of the weights and buffers of `model`; None without a decay.

    It forgets faster at first, so that after few steps it is not still what training began with.
    """
    if decay is None:
        return None

    def average(own: Any, latest: Any, count: Any) -> None:
        soon = (1 + int(count)) / (10 + int(count))
        get_ema_multi_avg_fn(min(decay, soon))(own, latest, count)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
