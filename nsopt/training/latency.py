"""How long one forward pass takes."""

import copy
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nsopt.compute.device import describe_device, place, resolve_compute, wait_for
from nsopt.compute.memory import explain_out_of_memory
from nsopt.errors import NsoptError


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch: median, quartiles and mean over `repeats` passes.

    device (with its threads), precision, batch_size and torch_version: see `latency_conditions`.
    """

    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    mean_ms: float
    batch_size: int
    repeats: int
    device: str
    precision: str = "fp32"
    torch_version: str = "unknown"


def latency_conditions(device: torch.device, batch_size: int = 100) -> dict[str, Any]:
    """The fields of a `Latency` that a measurement made here and now would have.

    Only measurements that agree in them can be compared, or stand for each other.
    """
    return {
        "device": describe_device(device),
        "precision": "fp32",
        "batch_size": batch_size,
        "torch_version": torch.__version__,
    }


@torch.no_grad()
def measure_latency(
    model: nn.Module,
    input_shape: tuple[int, ...] = (3, 32, 32),
    batch_size: int = 100,
    warmup: int = 20,
    repeats: int = 80,
    device: str = "cpu",
) -> Latency:
    """Time forward passes of `model` in evaluation mode and float32, one batch at a time.

    The paper's protocol (section 4.2): batches of 100, 20 passes to warm up, 80 timed. It is done
    on a copy: `model` stays as it is.
    """
    if warmup < 0 or repeats < 1 or batch_size < 1:
        raise NsoptError("latency needs repeats >= 1, batch_size >= 1 and warmup >= 0")
    where = resolve_compute(device, "fp32").device
    model = place(copy.deepcopy(model), where).eval()
    with explain_out_of_memory(batch_size):
        images = torch.randn(batch_size, *input_shape, generator=torch.Generator().manual_seed(0))
        images = images.to(where, memory_format=torch.channels_last)
        seconds = [_timed_pass(model, images) for _ in range(warmup + repeats)][warmup:]
    milliseconds = 1000 * np.array(seconds)
    lower, median, upper = np.percentile(milliseconds, [25, 50, 75])
    return Latency(
        median_ms=float(median),
        lower_quartile_ms=float(lower),
        upper_quartile_ms=float(upper),
        mean_ms=float(milliseconds.mean()),
        repeats=repeats,
        **latency_conditions(where, batch_size),
    )


def _timed_pass(model: nn.Module, images: torch.Tensor) -> float:
    wait_for(images.device)
    start = time.perf_counter()
    model(images)
    wait_for(images.device)
    return time.perf_counter() - start
