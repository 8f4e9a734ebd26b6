"""Steps of training: loss, optimizer and schedule; and EMA of the weights."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR
from torch.profiler import record_function
from torch.utils._pytree import tree_map

from nsopt.compute.checkpoint import full_state, match_buffers
from nsopt.compute.device import Compute
from nsopt.errors import NonFiniteLossError, NsoptError, short_reason
from nsopt.inputs import call_network, tensors_in
from nsopt.models.networks import inputs_for
from nsopt.tasks.supervision import Loss
from nsopt.tracing.originals import copy_model, tensors_of
from nsopt.training.settings import TrainSettings

_SQUARES = 0.999  # the second beta of AdamW, PyTorch's default
_MOMENTUM = 0.1  # of statistics, PyTorch's default
_STATISTICS = "running_mean", "running_var"  # of norms, which are finite


def sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Return the paper's optimizer, with all parameters in one group."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Any,
    targets: Any,
    compute: Compute,
    loss: Loss = functional.cross_entropy,
    before_update: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Update the weights of `model` once; return the mean loss of the batch.

    Args:
        before_update: called with the gradients computed and the weights not yet changed.
    """
    with record_function("forward"):
        optimizer.zero_grad()
        value = batch_loss(model, inputs, targets, compute, loss)
    if not optimizer.state and not value.isfinite():
        raise NonFiniteLossError(
            f"the loss of the first batch is {value.item()}, before any step: see what the loss "
            "computes from the outputs, and with which weights the network begins"
        )
    with record_function("backward"):
        value.backward()
    before_update()
    with record_function("optimizer"):
        optimizer.step()
    return value.detach()


def batch_loss(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    compute: Compute,
    loss: Loss = functional.cross_entropy,
) -> torch.Tensor:
    """Return the loss of a batch, from outputs in float32 or wider.

    Args:
        inputs: a tensor, a tuple of arguments, or a dictionary of keyword arguments.

    Raises:
        NonFiniteLossError: if the loss fails for outputs that are NaN, or is not finite because
            the batch is not.
        NsoptError: if no weight requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise NsoptError(
            "no weight of the network requires a gradient, so that none can be trained: call "
            "model.requires_grad_(True)"
        )
    inputs = inputs_for(model, inputs)
    with compute.autocast(), _explain_batch_of_one():
        outputs = call_network(model, inputs)
    outputs = widen(outputs)
    try:
        value = loss(outputs, targets)
    except Exception as error:  # of the user's code
        if not any(output.isnan().any() for output in tensors_in(outputs)):
            raise
        _check_finite(inputs, "inputs")
        raise NonFiniteLossError(
            "the outputs of the network became NaN, which the loss refuses "
            f"({short_reason(error)}): try a smaller learning rate"
        ) from error
    if compute.device.type == "cpu" and not value.isfinite():
        _check_finite(inputs, "inputs")
        _check_finite(targets, "targets")
    return value


@contextmanager
def _explain_batch_of_one() -> Iterator[None]:
    """Explain the error of BatchNorm for a batch that has one number for each channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise NsoptError(
            "BatchNorm cannot train on a batch of a single example: give the DataLoader "
            "drop_last=True, or another batch size"
        ) from None


def _check_finite(values: Any, name: str) -> None:
    """Raise NsoptError if a tensor of a batch holds NaN or infinity."""
    for value in tensors_in(values):
        if not value.isfinite().all():
            raise NonFiniteLossError(
                f"the loss became NaN because the {name} of a batch are NaN or infinite: remove or "
                "repair these examples"
            )


def widen(outputs: Any) -> Any:
    """Return outputs whose floating numbers are of float32 or wider, also inside dataclasses."""

    def widen_leaf(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            return leaf.to(torch.promote_types(leaf.dtype, torch.float32))
        if is_dataclass(leaf) and not isinstance(leaf, type):
            copied = copy.copy(leaf)
            for field in fields(leaf):  # not `replace`, which runs __post_init__ again
                object.__setattr__(copied, field.name, widen(getattr(leaf, field.name)))
            return copied
        return leaf

    return tree_map(widen_leaf, outputs)


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


class EMA(nn.Module):
    """The EMA (exponential moving average) of the weights and buffers of a model.

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
