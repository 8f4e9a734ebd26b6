"""Additions to plain SGD for short trainings of inherited or fitted weights.

AdamW, a linear schedule of the learning rate, a running average of the weights, and BatchNorms that
learn.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR

from nsopt.compute.checkpoint import full_state, match_buffers
from nsopt.tracing.originals import copy_model
from nsopt.tracing.run import tensors_of
from nsopt.training.settings import TrainSettings
from nsopt.training.step import sgd

_SQUARES = 0.999  # the second beta of AdamW, PyTorch's default
_MOMENTUM = 0.1  # of statistics, PyTorch's default
_STATISTICS = "running_mean", "running_var"  # of norms, which are finite


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the optimizer of all parameters, in one group."""
    lr, momentum, decay = settings.lr, settings.momentum, settings.weight_decay
    if settings.optimizer == "sgd":
        return sgd(model, lr, momentum, decay)
    betas = momentum, _SQUARES
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=betas, weight_decay=decay)


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


class RunningAverage(nn.Module):
    """A running average of the weights and buffers of a model.

    It forgets faster at first, so that after few steps it is not still what training began with.
    Integers, such as positions, have no average, and neither have infinite values, as in masks.
    Buffers that the model made again, such as a mask of another length, replace their averages.
    Averages of numbers of 16 bits, to which small steps round, are kept in float32.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy_model(model)
        self.register_buffer("n_averaged", torch.tensor(0))
        self.n_averaged: Tensor
        self._decay = decay
        self._exact: dict[str, Tensor] = {}  # averages of numbers of 16 bits

    def get_extra_state(self) -> dict[str, Tensor]:
        return dict(self._exact)

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self._exact = {name: t.to(self.n_averaged.device) for name, t in state.items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Include the weights of `model` after one more step."""
        if _describe_buffers(model) != _describe_buffers(self.module):
            match_buffers(self.module, full_state(model))
        averages, latest = tensors_of(self.module), tensors_of(model)
        floats = {n: v for n, v in latest.items() if v.is_floating_point() or v.is_complex()}
        steps = int(self.n_averaged)
        decay = min(self._decay, (1 + steps) / (10 + steps)) if steps else 0.0
        means = {name: self._widen(name, averages[name]) for name in floats}
        values = [value.to(means[name].dtype) for name, value in floats.items()]
        torch._foreach_lerp_([*means.values()], values, 1 - decay)
        for name, value in latest.items():
            mean = means.get(name, averages[name])
            if name not in floats:
                mean.copy_(value)
            elif not (value.requires_grad or name.endswith(_STATISTICS)):
                # Infinite on purpose, as in masks.
                mean.copy_(torch.where(mean.isfinite(), mean, value))
            if mean is not averages[name]:
                averages[name].copy_(mean)
        self.n_averaged += 1

    def _widen(self, name: str, average: Tensor) -> Tensor:
        """Return an average in float32 or wider, which is to be changed in place."""
        exact = torch.promote_types(average.dtype, torch.float32)
        if exact == average.dtype:
            return average
        if name not in self._exact or self._exact[name].shape != average.shape:
            self._exact[name] = average.to(exact)
        return self._exact[name]


def _describe_buffers(model: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (buffer.shape, buffer.dtype) for name, buffer in model.named_buffers()}


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
