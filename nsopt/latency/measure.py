"""Measure how long forward passes take: networks in turns, in rounds.

The machine may be busy, or become faster or slower. All networks of a round are timed within a
moment, so that the ratio of their times hardly changes; the median over rounds counts.
"""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsopt.compute.device import (
    Compute,
    describe_device,
    float32_precision,
    keep_random_state,
    memory_for,
    resolve_compute,
)
from nsopt.errors import NsoptError, short_reason
from nsopt.inputs import count_examples, resize_batch
from nsopt.isolation import public
from nsopt.latency.record import Latency
from nsopt.latency.runtime import TORCH, Feed, Pass, Runtime, Torch, draw_images, move
from nsopt.models.networks import change_layout

# 2: in rounds, with the memory of tensors kept between passes. 3: that memory is one block per
# network, and Python's garbage collection is off. 4: fewer passes of networks that take long. 5: in
# turns with the network of base widths.
_PROTOCOL = 5
_WARMUP = 2  # passes of each network before the first round
_PASSES = 10  # of a network in a round
_ROUND = 0.02  # seconds of its passes, unless one takes longer
_FEWEST, _USUAL, _MOST = 5, 8, 40  # rounds
_SURE = 1.02  # bound over median of a ratio at which the usual rounds are enough
_ERRORS = 2  # standard errors of the bound
_SECONDS = 3.0  # of each network, after which the fewest rounds are enough
_LONGEST = 1.0  # seconds of the passes of `measure_latency`
CPU = Compute(torch.device("cpu"), bf16=False)
Rounds = list[list[list[float]]]  # seconds, by round, network and pass


def latency_conditions(device: torch.device, runtime: Runtime = TORCH) -> dict[str, Any]:
    """Return the fields of `Latency` that must agree in a comparison."""
    device = runtime.device(device)
    return {
        "device": describe_device(device),
        "precision": float32_precision(device),
        "batch_size": runtime.batch_size,
        "torch_version": torch.__version__,
        "protocol": _PROTOCOL,
        "runtime": runtime.version,
    }


@public
def measure_latency(
    model: nn.Module,
    input_shape: tuple[int, ...] = (3, 32, 32),
    batch_size: int = 100,
    warmup: int = 20,
    repeats: int = 80,
    device: str = "cpu",
    inputs: Any = None,
) -> Latency:
    """Time forward passes of a copy of `model` in evaluation mode and float32.

    The defaults are the paper's protocol (section 4.2).

    Args:
        model: the network; it does not change.
        input_shape: channels, height and width of an image.
        batch_size: images per pass.
        warmup: passes before timing.
        repeats: passes that are timed; like `warmup` fewer, if they take more than a second.
        device: as torch names it, or auto.
        inputs: a batch for any other network than one of images, in place of `input_shape` and
            `batch_size`: a tensor, a tuple of arguments, or a dictionary of keyword arguments.

    Returns:
        The median of the milliseconds per batch, their spread, and the conditions.

    Raises:
        NsoptError: for invalid numbers, if the device is not available or has too little memory, or
            if the network does not run on these inputs.

    Examples:
        >>> model = arch.build(arch.base_widths)
        >>> nsopt.measure_latency(model, arch.input_shape).median_ms
        >>> nsopt.measure_latency(model, inputs={"tokens": tokens, "mask": mask}).median_ms
    """
    if min(batch_size, repeats) < 1 or warmup < 0:
        raise NsoptError("batch_size and repeats must be at least 1, and warmup at least 0")
    if inputs is None:
        inputs, kind = draw_images(input_shape, batch_size), f"images of {input_shape}"
    else:
        kind = "these inputs"
    clock = Clock(inputs, resolve_compute(device, "fp32"), Torch(count_examples(inputs)))
    try:
        with clock.running([clock.load(model)]) as (run,):
            _run_for(_LONGEST, run, warmup)
            (latency,) = clock.summarise([[_run_for(_LONGEST, run, repeats)]])
    except NsoptError:
        raise
    except Exception as error:  # forward may raise anything
        raise NsoptError(
            f"the network does not run on {kind}: {short_reason(error)}: give its own input_shape= "
            "or inputs="
        ) from error
    return latency


def measure_latencies(
    models: Sequence[nn.Module],
    inputs: Any,
    compute: Compute = CPU,
    runtime: Runtime = TORCH,
    rounds: int | None = None,
) -> list[Latency]:
    """Time networks in turns: see `Clock.measure`.

    Args:
        models: networks; they do not change. Ratios are of the time of the first.
        inputs: a batch, of which the runtime's batch size is taken: a tensor, a tuple of arguments,
            or a dictionary of keyword arguments.
    """
    clock = Clock(inputs, compute, runtime)
    return clock.measure([clock.load(model) for model in models], rounds)


@dataclass(frozen=True, eq=False)
class Clock:
    """Times networks on a device.

    Attributes:
        inputs: a batch, as in `measure_latencies`.
    """

    inputs: Any
    compute: Compute
    runtime: Runtime

    def load(self, model: nn.Module) -> Feed:
        """Load a copy of a network where the runtime runs it."""
        where, memory = self._where()
        with self.compute.all_threads(), torch.no_grad(), memory, keep_random_state(where):
            return self.runtime.prepare(model, self.inputs, where)

    def measure(self, feeds: Sequence[Feed], rounds: int | None = None) -> list[Latency]:
        """Return the latencies of loaded networks; ratios are of the time of the first.

        Args:
            rounds: how many; by default until the ratios are known to 2 %, at most 40 and at most
                three seconds for each network.
        """
        fixed = rounds if self.runtime.rounds is None else self.runtime.rounds
        timed: Rounds = []
        with self.running(feeds) as runs:
            counts = [1] * len(runs)
            if self.runtime.rounds is None:
                counts = [_count_passes(_run_for(_LONGEST, run, _WARMUP)) for run in runs]
            while not (len(timed) >= fixed if fixed else _is_enough(timed)):
                timed.append([_run(*pair) for pair in zip(runs, counts, strict=True)])
        return self.summarise(timed)

    @contextmanager
    def running(self, feeds: Sequence[Feed]) -> Iterator[list[Pass]]:
        """Yield what runs each network once on the inputs, with all that timing needs."""
        if self.runtime.batch_size < 1:
            raise NsoptError("latency needs batch_size >= 1")
        where, memory = self._where()
        with (
            torch.no_grad(),
            memory,
            pause_garbage_collection(),
            keep_random_state(where),
            self.compute.all_threads(),
        ):
            batch = move(resize_batch(self.inputs, self.runtime.batch_size), where)
            batch = change_layout(batch, torch.channels_last)
            yield [feed(batch) for feed in feeds]

    def summarise(self, timed: Rounds) -> list[Latency]:
        """Return the records of networks from the seconds of their passes."""
        with self.compute.all_threads():
            conditions = latency_conditions(self.compute.device, self.runtime)
        conditions["when"] = datetime.now(UTC).isoformat()
        medians = _find_medians(timed)
        latencies = []
        for index in range(medians.shape[1]):
            seconds = np.concatenate([networks[index] for networks in timed])
            values = medians[:, index] / (medians[:, 0] if index else 1.0)
            latency = Latency(
                median_ms=1000 * float(np.median(seconds)),
                repeats=seconds.size,
                ratio=float(np.median(values)) if index else 1.0,
                bound=bound_median(values) if index else 1.0,
                spread=_find_spread(values) if len(timed) > 1 else None,
                **conditions,
            )
            latencies.append(latency)
        return latencies

    def _where(self) -> tuple[torch.device, AbstractContextManager[None]]:
        """Return the device of the runtime, and a context that explains if it has no memory."""
        where = self.runtime.device(self.compute.device)
        return where, memory_for(where, f"timing batches of {self.runtime.batch_size}")


def _find_medians(timed: Rounds) -> NDArray[np.float64]:
    """Return the median seconds of each round and network, (rounds, networks)."""
    return np.array([[np.median(passes) for passes in networks] for networks in timed])


def _find_spread(values: NDArray[np.float64]) -> float:
    """Return the interquartile range over the median."""
    lower, median, upper = np.percentile(values, [25, 50, 75])
    return float((upper - lower) / median)


def bound_median(values: NDArray[np.float64]) -> float:
    """Return a value that the true median exceeds in one case of 40, if values are independent.

    It is the order statistic of that confidence; of few values the largest.
    """
    count = len(values)
    rank = math.ceil((count + _ERRORS * math.sqrt(count)) / 2)
    return float(np.sort(values)[min(rank, count) - 1])


def _is_enough(timed: Rounds) -> bool:
    count = len(timed)
    if count < _FEWEST or count >= _MOST:
        return count >= _MOST
    medians = _find_medians(timed)
    if sum(sum(map(sum, networks)) for networks in timed) >= _SECONDS * medians.shape[1]:
        return True
    values = medians[:, 1:] / medians[:, :1] if medians.shape[1] > 1 else medians
    widest = max(bound_median(column) / np.median(column) for column in values.T)
    return count >= _USUAL and widest <= _SURE


def _run_for(seconds: float, run: Pass, passes: int) -> list[float]:
    """Return the seconds of several passes; fewer, but at least one, if they take too long."""
    times: list[float] = []
    while len(times) < passes and sum(times) < seconds:
        times.append(run())
    return times


def _count_passes(warmup: Sequence[float]) -> int:
    """Return how many passes of a network are timed in every round.

    It depends on no round: a slow pass that ended its own round would count too often.
    """
    return min(max(int(_ROUND / np.median(warmup)), 1), _PASSES)


def _run(run: Pass, passes: int) -> list[float]:
    """Return the seconds of several passes without those of the first, before which another network
    filled the caches."""
    return [run() for _ in range(passes)][min(1, passes - 1) :]


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Turn garbage collection off while something is timed, like the standard library's timeit."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
