"""Choose the precision of training by timing a step in each."""

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from nsopt.compute.device import (
    Compute,
    describe_device,
    explain_out_of_memory,
    place,
    resolve_compute,
    use_seed,
    wait_for,
)
from nsopt.data.images import ImageData
from nsopt.files import cache_folder, write_cached
from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import Widths
from nsopt.settings import SgdSettings
from nsopt.tasks.supervision import Loss
from nsopt.tasks.task import Task, TaskSupervision, name_function
from nsopt.training.kernels import fast_kernels
from nsopt.training.step import sgd, train_step

_TIMED, _ENOUGH_SECONDS = 3, 0.5
_HALVES = torch.float16, torch.bfloat16
_TURNS = 2  # of each precision, so that a change of the machine's speed matters little


def choose_compute(
    settings: SgdSettings, arch: Architecture, widths: Widths, task: Task | ImageData
) -> Compute:
    """Return the device in the precision of the settings; for `auto` in the faster one.

    A step of the network is timed in both precisions where the device computes bf16 natively. Even
    there bf16 may be slower: its kernels for few channels, or for sound, are worse. A network with
    weights in float16 or bfloat16 computes in these, whatever the settings say. The choice is
    cached: on one machine the same training has the same precision, though times vary.

    Args:
        settings: of the training or search, with its device and batch size.
        task: its batches and loss; of images only the shape matters.

    Raises:
        NsoptError: for an unknown or unavailable device, or an unknown precision.
    """
    compute = resolve_compute(settings.device, settings.precision)
    if any(parameter.dtype in _HALVES for parameter in arch.template.parameters()):
        return replace(compute, bf16=False)  # autocast expects weights in float32
    if settings.precision != "auto" or not compute.bf16:
        return compute
    loss = name_function(task.loss) if isinstance(task, Task) and task.loss else ""
    network = [arch.name, arch.shapes(widths), settings.batch_size, task.name, loss]
    key = repr([network, describe_device(compute.device), torch.__version__])
    file = cache_folder() / "precision" / hashlib.sha256(key.encode()).hexdigest()[:32]
    with suppress(OSError):
        return replace(compute, bf16=file.read_text(encoding="utf-8") == "bf16")
    chosen = faster(compute, partial(time_training_step, arch, widths, settings.batch_size, task))
    write_cached(file, chosen.precision.encode())
    return chosen


def time_training_step(
    arch: Architecture, widths: Widths, batch_size: int, task: Task | ImageData, compute: Compute
) -> float:
    """Return the seconds of a training step: on random images, or on the first batch of a task.

    A batch has no more images than there are.

    Raises:
        OutOfMemoryError: if a batch of images does not fit the device.
    """
    if isinstance(task, Task):
        data = TaskSupervision(task, compute.device).renew()
        return _time_batch(arch, widths, data.batches(0, seed=0).next(), data.loss, compute)
    with use_seed(0, compute.device):
        images = torch.rand(min(batch_size, len(task.train)), *arch.input_shape)
    labels = torch.zeros(len(images), dtype=torch.int64)
    with explain_out_of_memory(compute.device, len(images)):
        return _time_batch(arch, widths, (images, labels), functional.cross_entropy, compute)


def _time_batch(
    arch: Architecture, widths: Widths, batch: tuple[Any, Any], loss: Loss, compute: Compute
) -> float:
    """Train a network for up to three steps on a batch; return the seconds of the fastest."""
    device, seconds = compute.device, list[float]()
    with use_seed(0, device):
        model = place(arch.build(widths), device, arch.layout).train()
        inputs, targets = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), batch)
        optimizer = sgd(model, lr=0.001, momentum=0.9, weight_decay=0.0)
        with fast_kernels(model):
            while len(seconds) < _TIMED and sum(seconds) < _ENOUGH_SECONDS:
                began = time.perf_counter()
                train_step(model, optimizer, inputs, targets, compute, loss)
                wait_for(device)
                seconds.append(time.perf_counter() - began)
    return min(seconds)


def faster(compute: Compute, time_step: Callable[[Compute], float]) -> Compute:
    """Return a device in bf16 or in float32, whichever `time_step` finds faster.

    Networks that do not run in bf16, as where results are written into zeros, take float32.
    """
    exact = replace(compute, bf16=False)

    def time_bf16() -> float:
        try:
            return time_step(compute)
        except Exception:  # of the user's code; in float32 it ran
            return math.inf

    pairs = [(time_step(exact), time_bf16()) for _ in range(_TURNS)]
    in_fp32, in_bf16 = map(min, zip(*pairs, strict=True))
    return compute if in_bf16 < in_fp32 else exact
