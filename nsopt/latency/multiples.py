"""Find multiples whose widths a device computes fastest, if there are any.

Kernels compute filters in blocks, so a width between two multiples of the block may take nearly as
long as the next multiple. Such widths save little time, so nsopt proposes only multiples.
"""

import hashlib
import json
import math
from contextlib import suppress

import numpy as np
from torch import nn

from nsopt.compute.device import Compute, keep_random_state
from nsopt.files import cache_folder, write_cached
from nsopt.latency.measure import latency_conditions, measure_latencies
from nsopt.latency.runtime import Runtime, draw_images, with_batch_size
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress

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
_ROUNDS = 10


def find_multiple(compute: Compute, runtime: Runtime, progress: Progress) -> int:
    """Return the multiple to which a device should round widths: 1, 2, 4, 8 or 16.

    This is the largest one for which the filters that are missing from a width half a multiple
    below a multiple cost little time. nsopt times networks of two convolutions with about 50
    filters, and caches the result for each device and runtime, unless a function of the user
    measures.

    Raises:
        NsoptError: if the runtime is not available.
    """
    runtime = with_batch_size(runtime, min(runtime.batch_size, _LARGEST_BATCH))
    with compute.all_threads(), keep_random_state(compute.device):
        key = json.dumps(latency_conditions(compute.device, runtime)).encode()
        file = cache_folder() / "multiples" / hashlib.sha256(key).hexdigest()[:32]
        if runtime.is_here:
            with suppress(OSError, ValueError):
                return int(file.read_text(encoding="utf-8"))
        progress.start("timing widths that are multiples of 2, 4, 8 and 16", 1)
        multiple = multiple_from_times(_time_widths(compute, runtime))
        if runtime.is_here:
            write_cached(file, str(multiple).encode())
    return multiple


def suit(arch: Architecture, multiple: int) -> int:
    """Return the multiple to which the units of all layers are rounded in a network.

    It is at most half of the narrowest layer, which could not shrink otherwise.

    Args:
        multiple: of channels, a power of two.
    """
    units = max(multiple // math.gcd(multiple, count) for count in arch.channels_per_unit)
    while units > 1 and 2 * units > min(arch.base_widths):
        units //= 2
    return units


def multiple_from_times(times: dict[int, float]) -> int:
    """Return the multiple of `find_multiple`, given the time of each width in any unit."""
    low, high = min(times), max(times)
    mean = (times[high] - times[low]) / (high - low)

    def pays(multiple: int) -> bool:
        part = multiple // 2
        costs = [(times[w + part] - times[w]) / part for w in _PAIRS[multiple]]
        return float(np.median(costs)) <= _CHEAP * mean

    return max(filter(pays, _PAIRS), default=1)


def _time_widths(compute: Compute, runtime: Runtime) -> dict[int, float]:
    """Return the time of each width over that of the narrowest."""
    widths = sorted({w + part for m, ws in _PAIRS.items() for w in ws for part in (0, m // 2)})
    models, images = map(_make_convolutions, widths), draw_images(_SHAPE, runtime.batch_size)
    measured = measure_latencies(list(models), images, compute, runtime, _ROUNDS)
    return {width: latency.ratio for width, latency in zip(widths, measured, strict=True)}


def _make_convolutions(width: int) -> nn.Module:
    first = nn.Conv2d(_SHAPE[0], width, 3, padding=1)
    second = nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU()).eval()
