"""Measure how long forward passes take."""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsopt.compute.device import Compute, describe_device, float32_precision, resolve_compute
from nsopt.compute.out_of_memory import memory_for
from nsopt.compute.random_state import keep_random_state
from nsopt.errors import NsoptError, short_reason
from nsopt.isolation import public
from nsopt.latency.runtime import TORCH, Feed, Pass, Runtime, Torch, draw_images, move
from nsopt.latency.sittings import LONGEST_WAIT, Latency
from nsopt.models.inputs import count_examples, resize_batch
from nsopt.models.layout import change_layout

# 2: in rounds, with the memory of tensors kept between passes. 3: that memory is one block per
# network, and Python's garbage collection is off. 4: fewer passes of networks that take long; the
# device is held for seconds at a time.
_PROTOCOL = 4
_DEVIATIONS = 3.1  # of the median's bound: the true median is above it in one case of 1,000
_PRECISE = 1.02  # bound over median; while it is more, further rounds are timed
_MOST_ROUNDS = 16  # times the rounds asked for
LONGEST = 30.0  # seconds of timed passes after which there are no further rounds
_FEWEST_ROUNDS = 5
_BRIEFLY = 2.0  # seconds of timed passes, where few are enough
_BRIEF_ROUNDS = 3
_TURN = 3.0  # seconds for which the device is held before others compute
_ROUND = 1.0  # seconds of a network's passes in a round, unless one pass takes longer
_PROCESS = Path("/proc/self")
CPU = Compute(torch.device("cpu"), bf16=False)


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
        Milliseconds per batch: median, quartiles and mean, with the conditions.

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
    runtime, compute = Torch(count_examples(inputs)), resolve_compute(device, "fp32")
    try:
        (latency,) = measure_latencies([model], inputs, warmup, repeats, 1, compute, runtime)
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
    warmup: int = 20,
    repeats: int = 80,
    rounds: int = 5,
    compute: Compute = CPU,
    runtime: Runtime = TORCH,
) -> list[Latency]:
    """Time networks side by side: every round times each network, so that conditions are equal.

    The device is held for seconds at a time, and only while networks run (`Compute.exclusive`). In
    networks that take long, fewer passes are timed: in a round at most a second of each.

    Args:
        models: networks; they do not change.
        inputs: a batch, of which the runtime's batch size is taken: a tensor, a tuple of arguments,
            or a dictionary of keyword arguments.
        warmup: passes of each network before timing, over all rounds.
        repeats: timed passes of each network, over all rounds.
        rounds: number of rounds. On a busy machine they differ.
    """
    beside = Beside(None, inputs, compute, runtime, (warmup, repeats, rounds))
    timed = beside.time([beside.load(model) for model in models])
    return [_summarise(timed, index) for index in range(len(models))]


@dataclass(frozen=True, eq=False)
class Beside:
    """Times networks in turns with others, so that the machine is equally fast for all.

    Attributes:
        whole: the network beside which others are timed; the runtime loads it once. None times each
            network alone.
        inputs: a batch, as in `measure_latencies`.
        passes: warm-up, repeats and rounds, as in `measure_latencies`.
    """

    whole: nn.Module | None
    inputs: Any
    compute: Compute
    runtime: Runtime
    passes: tuple[int, int, int]

    def load(self, model: nn.Module) -> Feed:
        """Load a copy of a network where the runtime runs it."""
        where, memory = self._where()
        with self.compute.all_threads(), torch.no_grad(), memory, keep_random_state(where):
            return self.runtime.prepare(model, self.inputs, where)

    def measure(self, feed: Feed, seconds: float = LONGEST, is_brief: bool = False) -> Latency:
        """Return the latency of a loaded network, and its share of that of `whole`.

        The share is an upper bound of the median over the rounds, see `bound_median`. On a busy
        machine there are up to 16 times as many rounds, until the bound is at most 2 % above the
        median, or `seconds` were timed. After that many seconds five rounds are enough; if they are
        less than usual and rounds do not agree, the median itself is returned; so it is of brief
        measurements, which take few passes.
        """
        feeds, least = [feed, *self._whole], self.passes[2]

        def is_enough(rounds: NDArray[np.float64]) -> bool:
            count, timed = len(rounds), float(rounds.sum())
            if is_brief:
                return count >= (_BRIEF_ROUNDS if timed >= min(seconds, _BRIEFLY) else least)
            if timed >= seconds:
                return count >= min(_FEWEST_ROUNDS, least)
            if count % least or len(feeds) == 1:
                return count == least
            shares = _share(rounds)
            bound = bound_median(shares)
            return count >= _MOST_ROUNDS * least or bound <= _PRECISE * float(np.median(shares))

        timed = self.time(feeds, is_enough)
        latency = _summarise(timed, 0)
        if len(feeds) == 1:
            return latency
        shares = _share(timed.seconds)
        bound, median = bound_median(shares), float(np.median(shares))
        is_short = is_brief or (seconds < LONGEST and bound > _PRECISE * median)
        return replace(latency, share=median if is_short else bound)

    @cached_property
    def _whole(self) -> list[Feed]:
        return [] if self.whole is None else [self.load(self.whole)]

    def time(
        self, feeds: Sequence[Feed], is_enough: Callable[[NDArray[np.float64]], bool] | None = None
    ) -> "_Turns":
        """Time loaded networks in turns, in rounds.

        Args:
            is_enough: of the seconds so far, (rounds, networks, passes per round), after each
                round; by default the rounds of `passes` are enough.
        """
        runtime, (warmup, repeats, rounds) = self.runtime, self.passes
        if warmup < 0 or runtime.batch_size < 1 or not 1 <= rounds <= repeats:
            raise NsoptError(
                "latency needs repeats >= rounds >= 1, batch_size >= 1 and warmup >= 0"
            )
        warmup, repeats, rounds = runtime.passes or self.passes
        where, memory = self._where()
        enough = is_enough or (lambda seconds: len(seconds) >= rounds)
        with (
            torch.no_grad(),
            memory,
            pause_garbage_collection(),
            keep_random_state(where),
            self.compute.all_threads(),
        ):
            conditions = latency_conditions(where, runtime)
            batch = move(resize_batch(self.inputs, runtime.batch_size), where)
            batch = change_layout(batch, torch.channels_last)
            passes = -(-warmup // rounds), repeats // rounds
            turns = _Turns(feeds, batch, *passes, runtime.is_here, conditions)
            while not turns.rounds or not enough(turns.seconds):
                turns.run_round(self.compute)
        turns.conditions["sitting"] = datetime.now(UTC).isoformat()
        return turns

    def _where(self) -> tuple[torch.device, AbstractContextManager[None]]:
        """Return the device of the runtime, and a context that explains if it has no memory."""
        where = self.runtime.device(self.compute.device)
        return where, memory_for(where, f"timing batches of {self.runtime.batch_size}")


def _share(rounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the time of the first network over that of the second, from (rounds, 2, passes)."""
    first, second = np.median(rounds, axis=2).T
    return np.asarray(first / second)


def bound_median(values: NDArray[np.float64]) -> float:
    """Return a value that the true median exceeds in one case of 1,000, if values are independent.

    It is the order statistic of that confidence; of few values the largest.
    """
    count = len(values)
    rank = math.ceil((count + _DEVIATIONS * math.sqrt(count)) / 2)
    return float(np.sort(values)[min(rank, count) - 1])


@dataclass(eq=False)
class _Turns:
    """Rounds of passes, each of all networks.

    Attributes:
        warmup, repeats: passes of each network in a round; fewer after a round that took long.
        is_here: whether threads of this machine compute, so that they may wait.
        conditions: see `latency_conditions`.
        rounds: the seconds of each round so far, by network and pass.
        waited: by network, seconds for which threads waited for a processor, in all passes timed.
        taken: by network, the seconds of these passes.
    """

    feeds: Sequence[Feed]
    batch: Any
    warmup: int
    repeats: int
    is_here: bool
    conditions: dict[str, Any]
    rounds: list[list[list[float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waited, self.taken = np.zeros((2, len(self.feeds)))

    @property
    def seconds(self) -> NDArray[np.float64]:
        """(rounds, networks, passes)."""
        return np.array(self.rounds)

    def run_round(self, compute: Compute) -> None:
        """Run a round; hold the device for seconds at a time."""
        clock = seconds_waited if self.is_here else lambda: math.nan
        pending, latest = list(enumerate(self.feeds)), list[list[float]]()
        while pending:
            with compute.exclusive():
                until = time.monotonic() + _TURN
                while pending and time.monotonic() < until:
                    index, feed = pending.pop(0)
                    run = feed(self.batch)
                    _run_for(_ROUND, run, self.warmup)
                    before = clock()
                    latest.append(_run_for(_ROUND, run, self.repeats))
                    self.waited[index] += np.maximum(0.0, clock() - before)
                    self.taken[index] += sum(latest[-1])
        fewest = min(len(passes) for passes in latest)  # equal in all rounds after the first
        self.warmup = math.ceil(self.warmup * fewest / self.repeats)
        self.repeats = fewest
        self.rounds = [[passes[:fewest] for passes in timed] for timed in (*self.rounds, latest)]


def _run_for(seconds: float, run: Pass, passes: int) -> list[float]:
    """Return the seconds of several passes; fewer, but at least one, if they take too long."""
    times: list[float] = []
    while len(times) < passes and sum(times) < seconds:
        times.append(run())
    return times


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


def seconds_waited() -> float:
    """Return the seconds that all threads together have waited; NaN on other systems than Linux."""
    if not (_PROCESS / "schedstat").is_file():
        return math.nan
    nanoseconds = 0
    for task in (_PROCESS / "task").iterdir():
        with suppress(OSError):  # the thread may have ended
            nanoseconds += int((task / "schedstat").read_text().split()[1])
    return nanoseconds / 1e9


def was_busy(latencies: Sequence[Latency]) -> bool:
    """Return whether another program computed all the time while networks were measured.

    Other processes run for milliseconds at a time, longer than a pass of a small network, so most
    passes do not wait at all. This therefore compares the sum of all waits with the sum of all
    times.
    """
    waited = [latency.waited or 0.0 for latency in latencies]
    times = [latency.mean_ms * latency.repeats for latency in latencies]
    return float(np.average(waited, weights=times)) > LONGEST_WAIT


def _summarise(timed: _Turns, index: int) -> Latency:
    seconds = timed.seconds[:, index]
    milliseconds, waited = 1000 * seconds, float(timed.waited[index] / timed.taken[index])
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
