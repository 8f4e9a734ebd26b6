"""Choose the precision of training by timing a step in each."""

from collections.abc import Callable
from dataclasses import replace

from nsopt.compute.device import Compute, resolve_compute
from nsopt.data.images import ImageData
from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import Widths
from nsopt.settings import SgdSettings
from nsopt.tasks.task import Task, TaskSupervision
from nsopt.training.step import time_batch, time_step

_TURNS = 2  # of each precision, so that a change of the machine's speed matters little


def choose_compute(
    settings: SgdSettings, arch: Architecture, widths: Widths, task: Task | ImageData
) -> Compute:
    """Return the device in the precision of the settings; for `auto` in the faster one.

    A step of the network is timed in both precisions where the device computes bf16 natively. Even
    there bf16 may be slower: its kernels for few channels, or for sound, are worse.

    Args:
        settings: of the training or search, with its device and batch size.
        arch: the network.
        widths: the widths that are trained.
        task: its batches and loss; of images only the shape matters.

    Raises:
        NsoptError: for an unknown or unavailable device, or an unknown precision.
    """

    def time(compute: Compute) -> float:
        return time_training_step(arch, widths, settings.batch_size, task, compute)

    compute = resolve_compute(settings.device, settings.precision)
    return faster(compute, time) if settings.precision == "auto" and compute.bf16 else compute


def time_training_step(
    arch: Architecture,
    widths: Widths,
    batch_size: int,
    task: Task | ImageData,
    compute: Compute,
) -> float:
    """Return the seconds of a training step: on random images, or on the first batch of a task."""
    if not isinstance(task, Task):
        return time_step(arch, widths, batch_size, compute)
    own = TaskSupervision(task, compute.device)
    return time_batch(arch, widths, own.batches(0, seed=0).next(), own.loss, compute)


def faster(compute: Compute, time: Callable[[Compute], float]) -> Compute:
    """Return a device in bf16 or in float32, whichever `time` finds faster."""
    exact = replace(compute, bf16=False)
    pairs = [(time(exact), time(compute)) for _ in range(_TURNS)]
    in_fp32, in_bf16 = map(min, zip(*pairs, strict=True))
    return compute if in_bf16 < in_fp32 else exact
