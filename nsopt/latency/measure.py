"""Measure how long forward passes take."""

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsopt.arguments import checked
from nsopt.compute.device import describe_device, float32_precision, resolve_compute
from nsopt.compute.memory import keep_memory
from nsopt.compute.out_of_memory import memory_for
from nsopt.compute.random_state import keep_random_state
from nsopt.compute.waiting import seconds_waited
from nsopt.errors import NsoptError
from nsopt.latency.runtime import TORCH, Feed, Runtime, Torch, draw_images, move
from nsopt.latency.sittings import LONGEST_WAIT, Latency
from nsopt.models.inputs import count_examples, resize_batch
from nsopt.models.layout import change_layout

# 2: in rounds, with the memory of tensors kept between passes. 3: that memory is one block per
# network, and Python's garbage collection is off.
_PROTOCOL = 3
_DEVIATIONS = 3.1  # of the median's bound: the true median is above it in one case of 1,000
_PRECISE = 1.02  # bound over median; while it is more, further rounds are timed
_MOST_ROUNDS = 16  # times the rounds asked for
_LONGEST = 30.0  # seconds of timed passes after which there are no further rounds


def latency_conditions(device: torch.device, runtime: Runtime = TORCH) -> dict[str, Any]:
    """Return the conditions of a measurement: fields of `Latency` that must agree in a comparison.

    The number of passes must agree, too, but is not included.
    """
    own = runtime.device(device)
    return {
        "device": describe_device(own),
        "precision": float32_precision(own),
        "batch_size": runtime.batch_size,
        "torch_version": torch.__version__,
        "protocol": _PROTOCOL,
        "runtime": runtime.version,
    }


@checked
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
        repeats: passes that are timed.
        device: as torch names it, or auto.
        inputs: a batch for any other network than one of images, in place of `input_shape` and
            `batch_size`: a tensor, a tuple of arguments, or a dictionary of keyword arguments.

    Returns:
        Milliseconds per batch: median, quartiles and mean, with the conditions.

    Raises:
        NsoptError: if the device is not available or has too little memory.

    Examples:
        >>> model = arch.build(arch.base_widths)
        >>> nsopt.measure_latency(model, arch.input_shape).median_ms
        >>> nsopt.measure_latency(model, inputs={"tokens": tokens, "mask": mask}).median_ms
    """
    if inputs is None:
        inputs = draw_images(input_shape, batch_size)
    runtime = Torch(count_examples(inputs))
    (latency,) = measure_latencies([model], inputs, warmup, repeats, 1, device, runtime)
    return latency


def measure_latencies(
    models: Sequence[nn.Module],
    inputs: Any,
    warmup: int = 20,
    repeats: int = 80,
    rounds: int = 5,
    device: str = "cpu",
    runtime: Runtime = TORCH,
) -> list[Latency]:
    """Time networks side by side: every round times each network, so that conditions are equal.

    Args:
        models: networks; they do not change.
        inputs: a batch, of which the runtime's batch size is taken: a tensor, a tuple of arguments,
            or a dictionary of keyword arguments.
        warmup: passes of each network before timing, over all rounds.
        repeats: timed passes of each network, over all rounds.
        rounds: number of rounds. On a busy machine they differ.
        device: as torch names it, or auto.
        runtime: runs the networks.
    """
    load = [partial(runtime.prepare, model, inputs) for model in models]
    passes = warmup, repeats, rounds
    return [_summarise(timed) for timed in _time_in_turns(load, inputs, passes, device, runtime)]


@dataclass(frozen=True, eq=False)
class Beside:
    """Times networks in turns with one network, so that the machine is equally fast for both.

    Attributes:
        whole: the network beside which others are timed; the runtime loads it once.
        inputs: a batch, as in `measure_latencies`.
        passes: warm-up, repeats and rounds, as in `measure_latencies`.
        device: as torch names it, or auto.
        runtime: runs the networks.
    """

    whole: nn.Module
    inputs: Any
    passes: tuple[int, int, int]
    device: str
    runtime: Runtime

    def measure(self, model: nn.Module) -> tuple[Latency, float]:
        """Return the latency of a network, and its share of the milliseconds of `whole`.

        The share is an upper bound of the median over the rounds, see `bound_median`. On a busy
        machine there are up to 16 times as many rounds, until the bound is at most 2 % above the
        median, or half a minute was timed.
        """
        most = _MOST_ROUNDS * self.passes[2]

        def is_enough(rounds: NDArray[np.float64]) -> bool:
            shares = _share_rounds(rounds)
            median = float(np.median(shares))
            ends = len(shares) >= most or float(rounds.sum()) >= _LONGEST
            return ends or bound_median(shares) <= _PRECISE * median

        load = partial(self.runtime.prepare, model, self.inputs), self._load_whole
        timed = _time_in_turns(load, self.inputs, self.passes, self.device, self.runtime, is_enough)
        shares = _share_rounds(np.stack([each.milliseconds for each in timed], axis=1))
        return _summarise(timed[0]), bound_median(shares)

    @cached_property
    def _load_whole(self) -> Callable[[torch.device], Feed]:
        return cache(partial(self.runtime.prepare, self.whole, self.inputs))


def _share_rounds(rounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the time of the first network over that of the second, from (rounds, 2, passes)."""
    own, other = np.median(rounds, axis=2).T
    shares: NDArray[np.float64] = own / other
    return shares


def bound_median(values: NDArray[np.float64]) -> float:
    """Return a value that the true median exceeds in one case of 1,000, if values are independent.

    It is the order statistic of that confidence; of few values the largest.
    """
    count = len(values)
    rank = math.ceil((count + _DEVIATIONS * math.sqrt(count)) / 2)
    return float(np.sort(values)[min(rank, count) - 1])


class _Timed(NamedTuple):
    """Timed passes of one network.

    Attributes:
        milliseconds: (rounds, passes per round).
        waited: see `Latency`.
        conditions: see `latency_conditions`.
    """

    milliseconds: NDArray[np.float64]
    waited: float
    conditions: dict[str, Any]


def _time_in_turns(
    load: Sequence[Callable[[torch.device], Feed]],
    inputs: Any,
    passes: tuple[int, int, int],
    device: str,
    runtime: Runtime,
    is_enough: Callable[[NDArray[np.float64]], bool] = lambda seconds: True,
) -> list[_Timed]:
    """Time networks in turns, in rounds; again as many rounds until there are enough.

    Args:
        load: for each network a function that loads it on a device.
        is_enough: of the seconds so far, (rounds, networks, passes per round).
    """
    warmup, repeats, rounds = passes
    if warmup < 0 or runtime.batch_size < 1 or not 1 <= rounds <= repeats:
        raise NsoptError("latency needs repeats >= rounds >= 1, batch_size >= 1 and warmup >= 0")
    warmup, repeats, rounds = runtime.passes(warmup, repeats, rounds)
    where = runtime.device(resolve_compute(device, "fp32").device)
    conditions = latency_conditions(where, runtime)
    seconds: list[list[list[float]]] = []
    waited = np.zeros(len(load))
    clock = seconds_waited if runtime.is_here else lambda: math.nan
    with (
        torch.no_grad(),
        memory_for(where, f"timing batches of {runtime.batch_size}"),
        keep_memory(where),
        pause_garbage_collection(),
        keep_random_state(where),
    ):
        loaded = [load_one(where) for load_one in load]
        batch = move(resize_batch(inputs, runtime.batch_size), where)
        batch = change_layout(batch, torch.channels_last)
        while len(seconds) % rounds or not seconds or not is_enough(np.array(seconds)):
            seconds.append([])
            for index, feed in enumerate(loaded):
                run = feed(batch)
                for _ in range(-(-warmup // rounds)):
                    run()
                before = clock()
                seconds[-1].append([run() for _ in range(repeats // rounds)])
                waited[index] += np.maximum(0.0, clock() - before)
    conditions["sitting"] = datetime.now(UTC).isoformat()
    return [
        _Timed(1000 * own, float(waits / own.sum()), conditions)
        for own, waits in zip(np.array(seconds).swapaxes(0, 1), waited, strict=True)
    ]


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


def was_busy(latencies: Sequence[Latency]) -> bool:
    """Return whether another program computed all the time while networks were measured.

    Other processes run for milliseconds at a time, longer than a pass of a small network, so most
    passes do not wait at all. This therefore compares the sum of all waits with the sum of all
    times.
    """
    waited = [each.waited or 0.0 for each in latencies]
    taken = [each.mean_ms * each.repeats for each in latencies]
    return float(np.average(waited, weights=taken)) > LONGEST_WAIT


def _summarise(timed: _Timed) -> Latency:
    milliseconds, waited = timed.milliseconds, timed.waited
    lower, median, upper = np.percentile(milliseconds, [25, 50, 75])
    rounds = np.median(milliseconds, axis=1)
    return Latency(
        median_ms=float(median),
        lower_quartile_ms=float(lower),
        upper_quartile_ms=float(upper),
        mean_ms=float(milliseconds.mean()),
        repeats=milliseconds.size,
        spread=float(np.ptp(rounds) / median) if len(rounds) > 1 else None,
        waited=None if np.isnan(waited) else waited,
        **timed.conditions,
    )
