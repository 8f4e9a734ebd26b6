"""Find multiples whose widths a device computes fastest, if there are any.

Kernels compute filters in blocks, so a width between two multiples of the block may take nearly as
long as the next multiple. Such widths save little time, so nsopt proposes only multiples.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from nsopt.compute.device import Compute, resolve_compute, sharing
from nsopt.compute.random_state import keep_random_state
from nsopt.errors import NoWidthsError
from nsopt.files import cache_folder, write_cached
from nsopt.latency.measure import latency_conditions, measure_latencies, was_busy
from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.latency.runtime import Runtime, draw_images, with_batch_size
from nsopt.latency.sittings import Latency
from nsopt.latency.timer import Timer
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.scaling.metric import MACS

_CHEAP = 0.7  # time of a filter more, over the mean
# By multiple m: widths w for which w + m / 2 is a multiple of m. For 2, half of them are multiples
# of 4.
_PAIRS = {
    2: (35, 37, 43, 45, 51, 53, 59, 61),
    4: (34, 38, 42, 46, 50, 54, 58, 62),
    8: (36, 44, 52, 60),
    16: (40, 56),
}
_SHAPE = (3, 16, 16)
_LARGEST_BATCH = 32
_WARMUP, _REPEATS, _ROUNDS = 10, 50, 10
_FORMAT = 2
_TRIED = 16, 8, 4, 1
MORE = 1.02  # times the MACs that a smaller multiple must allow


def find_multiple(device: str, runtime: Runtime, progress: Progress) -> int:
    """Return the multiple to which a device should round widths: 1, 2, 4, 8 or 16.

    This is the largest one for which the filters that are missing from a width half a multiple
    below a multiple cost little time. nsopt times networks of two convolutions with about 50
    filters, and caches the result for each device and runtime, unless the machine was busy or a
    function of the user measures.

    Raises:
        NsoptError: if the device or the runtime is not available.
    """
    compute = resolve_compute(device, "fp32")
    random = keep_random_state(compute.device)
    with sharing(compute, progress) as shared, shared.all_threads(), random:
        runtime = with_batch_size(runtime, min(runtime.batch_size, _LARGEST_BATCH))
        conditions = latency_conditions(shared.device, runtime)
        key = json.dumps([_FORMAT, conditions]).encode()
        file = cache_folder() / "multiples" / f"{hashlib.sha256(key).hexdigest()[:32]}.json"
        if not runtime.is_here or (multiple := _read(file)) is None:
            progress.start("timing widths that are multiples of 2, 4, 8 and 16", 1)
            timed = _time_widths(shared, runtime)
            multiple = multiple_from_times({w: t.lower_quartile_ms for w, t in timed.items()})
            if runtime.is_here and not was_busy(list(timed.values())):
                content = {"multiple": multiple, "conditions": conditions}
                write_cached(file, json.dumps(content).encode())
    return multiple


def choose_multiples(
    arch: Architecture, asked: Sequence[MeasuredBudget], timer: Timer
) -> tuple[int, ...]:
    """Return each layer's multiple with which most MACs fit the budgets, as timed.

    Whether a multiple pays depends on the widths that a budget allows, so all are tried, the
    largest first, until half of the time that is left for measurements is over. A larger multiple
    has priority unless a smaller one allows 2 % more MACs.

    Args:
        asked: budgets along uniform scaling, without multiples.
    """
    tried = dict.fromkeys(multiple_per_layer(arch, multiple) for multiple in _TRIED)
    macs = dict[tuple[int, ...], float]()
    timer.progress.start("timing multiples of widths", len(tried))
    is_over = timer.allowance.share()
    for multiples in tried:
        if is_over() and macs:
            break
        macs[multiples] = _count_macs(arch, asked, multiples, timer)
        timer.progress.advance()
    most = max(macs.values())
    if not most:
        return (1,) * len(arch.base_widths)
    return next(multiples for multiples, count in macs.items() if MORE * count >= most)


def _count_macs(
    arch: Architecture, asked: Sequence[MeasuredBudget], multiples: tuple[int, ...], timer: Timer
) -> float:
    """Return the geometric mean of the MACs that budgets allow; 0 if one has no widths."""
    logs = []
    for budget in asked:
        rounded = replace(budget, limits=budget.limits._replace(multiple_of=multiples))
        try:
            widths = timer.solve(rounded, is_careful=False).widths
        except NoWidthsError:
            return 0.0
        logs.append(math.log(MACS.cost(arch)(widths)))
    return math.exp(np.mean(logs))


def multiple_per_layer(arch: Architecture, multiple: int) -> tuple[int, ...]:
    """Return the multiple of each layer's units, at which its channels are multiples of `multiple`.

    A layer that is narrower than two multiples gets half of the multiple, and so on.

    Args:
        multiple: of channels, a power of two.
    """
    multiples = []
    for width, channels in zip(arch.base_widths, arch.channels_per_unit, strict=True):
        units = multiple // math.gcd(multiple, channels)
        while units > 1 and 2 * units > width:
            units //= 2
        multiples.append(units)
    return tuple(multiples)


def multiple_from_times(milliseconds: dict[int, float]) -> int:
    """Return the multiple of `find_multiple`, given the milliseconds of each width."""
    low, high = min(milliseconds), max(milliseconds)
    mean = (milliseconds[high] - milliseconds[low]) / (high - low)

    def pays(multiple: int) -> bool:
        part = multiple // 2
        costs = [(milliseconds[w + part] - milliseconds[w]) / part for w in _PAIRS[multiple]]
        return float(np.median(costs)) <= _CHEAP * mean

    return max(filter(pays, _PAIRS), default=1)


def _time_widths(compute: Compute, runtime: Runtime) -> dict[int, Latency]:
    widths = sorted({w + part for m, ws in _PAIRS.items() for w in ws for part in (0, m // 2)})
    models, passes = list(map(_make_convolutions, widths)), (_WARMUP, _REPEATS, _ROUNDS)
    images = draw_images(_SHAPE, runtime.batch_size)
    measured = measure_latencies(models, images, *passes, compute, runtime)
    return dict(zip(widths, measured, strict=True))


def _make_convolutions(width: int) -> nn.Module:
    first = nn.Conv2d(_SHAPE[0], width, 3, padding=1)
    second = nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU()).eval()


def _read(file: Path) -> int | None:
    """Read a result from the cache; None if its file is missing or damaged."""
    try:
        multiple = json.loads(file.read_text(encoding="utf-8"))["multiple"]
    except (OSError, LookupError, TypeError, ValueError):
        return None
    return multiple if multiple in {1, *_PAIRS} else None
