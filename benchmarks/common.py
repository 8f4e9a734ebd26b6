"""What the benchmarks share: a fresh process for each side, stand-in images, output."""

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nsopt.data.images import ImageData, ImageSet
from nsopt.latency.measure import measure_latencies
from nsopt.latency.runtime import TORCH, draw_images
from nsopt.models.architecture import Architecture
from nsopt.progress import Silent
from nsopt.scaling.law import ScalingLaw, read_law

_GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
_PUBLISHED = {
    "vgg11": "vgg11-cifar10",
    "mobilenetv2": "mobilenetv2-cifar100",
    "resnet18": "resnet18-cifar100",
}
NETWORKS = tuple(_PUBLISHED)


def published_law(network: str) -> ScalingLaw:
    """The published law of one of `NETWORKS`, of the last iteration of its descent."""
    return read_law(_GOLDEN / f"{_PUBLISHED[network]}.laws.json", 15)


def time_in_turns(
    models: Sequence[nn.Module], input_shape: tuple[int, ...], rounds: int
) -> list[float]:
    """Return the milliseconds of networks in PyTorch."""
    images = draw_images(input_shape, TORCH.batch_size)
    return [latency.median_ms for latency in measure_latencies(models, images, rounds=rounds)]


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function so that it inherits no memory, caches or settings of another side."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_warm, function, *arguments).result()


def _warm(function: Callable[..., Any], *arguments: Any) -> Any:
    """Before the clock starts, do what a process does once, such as importing the optimizer."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    return function(*arguments)


def filters_per_step(arch: Architecture, steps: int) -> int:
    """Filters to prune at a step, so that `steps` of them leave 5 %."""
    filters = int(np.dot(arch.base_widths, arch.channels_per_unit))
    return -(-95 * filters // (100 * steps))


class StageTimes(Silent):
    """A `Progress` that notes when every epoch of pre-training and every prune step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def advance(self, detail: str = "") -> None:
        self.times.append(time.perf_counter())


def random_images(train: int, test: int = 100) -> ImageData:
    """Ten classes of noise around grey levels of their own, 3x32x32."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(train + test) % 10
    noise = torch.randint(128, (train + test, 3, 32, 32), generator=generator)
    pixels = (noise + 12 * labels[:, None, None, None]).to(torch.uint8)
    images = ImageSet(pixels, labels)
    return ImageData(
        "random",
        tuple("0123456789"),
        images.take(range(train)),
        images.take(range(train, train + test)),
    )


def show(results: Mapping[str, Any], as_json: bool) -> None:
    """Print results as one line of JSON, or a line each."""
    if as_json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        print(f"{name:26} {value:.4g}" if isinstance(value, float) else f"{name:26} {value}")
