"""Time the kernel of each torch function that a network calls, one at a time."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from nsopt.compute.device import wait_for
from nsopt.latency.calls import Call
from nsopt.latency.tables import BLOCK, Table
from nsopt.models.layout import change_layout

_WARMUP = 2
_FEWEST = 4
_MOST = 30
_SECONDS = 0.04
_BURST = 20
_POINTS = 7
_FEW = (2, 8)


def measure_table(
    calls: Sequence[Call], device: torch.device, layout: torch.memory_format
) -> Table:
    """Time calls of one kind: plain convolutions over their channels, others over their size."""
    if calls[0].is_convolution:
        return _measure_convolutions(calls, device, layout)
    by_place = {call.place[0]: call for call in calls}
    sizes = sorted(by_place)
    chosen = np.unique(np.linspace(0, len(sizes) - 1, _POINTS).round().astype(int))
    axis = np.array([sizes[i] for i in chosen], dtype=np.float64)
    measured = [_time(_replay(by_place[sizes[i]], device, layout), device) for i in chosen]
    return Table.of((axis,), 1000 * np.array(measured), (1,))


def _measure_convolutions(
    calls: Sequence[Call], device: torch.device, layout: torch.memory_format
) -> Table:
    """Time convolutions over their numbers of input and output channels.

    The number of inputs stays if it is the same in all calls.
    """
    inputs, outputs = (sorted({call.place[d] for call in calls}) for d in range(2))
    axes = tuple(
        np.array(places if len(places) == 1 else _choose_channels(places[-1]), dtype=np.float64)
        for places in (inputs, outputs)
    )
    images, weight, _, *fixed = calls[0].arguments
    batch, shape, window = images.shape[0], images.shape[2:], weight.shape[2:]
    measured = np.zeros((len(axes[0]), len(axes[1])))
    for i, read in enumerate(axes[0].astype(int).tolist()):
        x = _draw_tensor((batch, read, *shape), device, layout)
        for j, made in enumerate(axes[1].astype(int).tolist()):
            w = _draw_tensor((made, read, *window), device, layout)
            bias = torch.zeros(made, device=device)
            run = partial(functional.conv2d, x, w, bias, *fixed)
            measured[i, j] = 1000 * _time(run, device)
    return Table.of(axes, measured, (1, 1 if len(axes[1]) == 1 else BLOCK))


def _choose_channels(largest: int) -> list[int]:
    """Return the numbers of channels to time, up to the largest in whole blocks; above one block on
    a log scale."""
    largest = math.ceil(largest / BLOCK) * BLOCK
    if largest <= BLOCK:
        return sorted({*_FEW, largest})
    spaced = np.geomspace(BLOCK, largest, _POINTS) / BLOCK
    blocks: list[int] = np.unique(np.ceil(spaced - 1e-9).astype(int)).tolist()
    return [*_FEW, *(BLOCK * block for block in blocks)]


def _replay(call: Call, device: torch.device, layout: torch.memory_format) -> Callable[[], Any]:
    """Return a function that repeats a call on random tensors of the same shapes."""

    def real(value: Tensor) -> Tensor:
        return _draw_tensor(tuple(value.shape), device, layout)

    arguments, options = pytree.tree_map_only(Tensor, real, (call.arguments, call.options))
    return partial(call.function, *arguments, **options)


def _draw_tensor(
    shape: tuple[int, ...], device: torch.device, layout: torch.memory_format
) -> Tensor:
    """Return random positive numbers: running variances must be positive."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    return change_layout(values, layout)  # type: ignore[no-any-return]


def _time(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a run: the lower quartile, which other processes disturb least.

    An asynchronous device gets many runs before each synchronisation, as in a network. A run then
    takes as long as its kernel or its launch, whichever is longer.
    """
    burst = 1 if device.type == "cpu" else _BURST
    with torch.no_grad():
        for _ in range(_WARMUP):
            run()
        seconds: list[float] = []
        while len(seconds) < _FEWEST or (sum(seconds) < _SECONDS and len(seconds) < _MOST):
            wait_for(device)
            start = time.perf_counter()
            for _ in range(burst):
                run()
            wait_for(device)
            seconds.append((time.perf_counter() - start) / burst)
    return float(np.percentile(seconds, 25))
