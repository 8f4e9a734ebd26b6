"""Additions to SGD for short trainings of inherited weights.

A linear schedule of the learning rate, a running average of the weights, and BatchNorms that learn.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nsopt.compute.checkpoint import full_state, match_buffers
from nsopt.models.tracing.originals import copy_model
from nsopt.training.settings import TrainSettings

_MOMENTUM = 0.1  # of statistics, PyTorch's default
_STATISTICS = "running_mean", "running_var", "num_batches_tracked"


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


class RunningAverage(AveragedModel):
    """A running average of the weights and buffers of a model.

    It forgets faster at first, so that after few steps it is not still what training began with.
    Integers, such as positions, have no average, and neither have infinite values, as in masks.
    Buffers that the model made again, such as a mask of another length, replace their averages.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        # `AveragedModel` copies its argument by `copy.deepcopy`, which refuses some networks.
        super().__init__(nn.Module(), multi_avg_fn=self._mix, use_buffers=True)
        self.module = copy_model(model)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Include the weights of `model` after one more step."""
        new, old = (
            [(name, b.shape, b.dtype) for name, b in m.named_buffers()]
            for m in (model, self.module)
        )
        if new != old:
            match_buffers(self.module, full_state(model))
            for path, module in model.named_modules():  # buffers are paired by position
                averages = self.module.get_submodule(path)._buffers
                ordered = {name: averages[name] for name in module._buffers if name in averages}
                averages.clear()
                averages.update(ordered)
        super().update_parameters(model)
        for mean, value in zip(_list_tensors(self.module), _list_tensors(model), strict=True):
            if not value.requires_grad:  # infinite on purpose, as in masks
                mean.copy_(torch.where(mean.isfinite(), mean, value))

    def _mix(self, averages: Any, latest: Any, count: Any) -> None:
        if not (averages[0].is_floating_point() or averages[0].is_complex()):
            torch._foreach_copy_(averages, latest)
            return
        soon = (1 + int(count)) / (10 + int(count))
        get_ema_multi_avg_fn(min(self._decay, soon))(averages, latest, count)


def _list_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Return the parameters and buffers but the statistics of BatchNorms, which are finite."""
    named = model.named_buffers()
    others = (buffer for name, buffer in named if not name.endswith(_STATISTICS))
    return [*model.parameters(), *others]


def free_statistics(model: nn.Module) -> int:
    """Let the statistics of BatchNorms with momentum 0 follow the data; return how many there are.

    Networks that come from other frameworks may have it, because they were never trained in
    PyTorch, which normalises by the batch in training. Their evaluation would differ more and more.
    """
    stuck = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.momentum == 0
    ]
    for module in stuck:
        module.momentum = _MOMENTUM
    return len(stuck)
