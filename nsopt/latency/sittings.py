"""Choose the latencies that count: those of the calmest complete sitting.

A sitting times several networks side by side. Only latencies of the same sitting can be compared.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LARGEST_SPREAD = 0.15
LONGEST_WAIT = 0.15

Measured = Mapping[str, Any]  # the fields of a `Latency`, and "widths"


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch: median, quartiles and mean over `repeats` passes.

    Only measurements that agree in device, precision, batch_size, torch_version, protocol and
    runtime can be compared.

    Attributes:
        median_ms: median.
        lower_quartile_ms: lower quartile.
        upper_quartile_ms: upper quartile.
        mean_ms: mean.
        batch_size: images per batch.
        repeats: number of timed passes.
        device: name of the device, with its number of threads.
        precision: precision of matrix products and convolutions.
        torch_version: PyTorch's version.
        protocol: version of nsopt's protocol of timing.
        spread: range of the medians of several rounds over the median of all; None for one round.
        waited: time that threads waited for a processor, over the time of the passes; None if
            unknown, as on a device elsewhere. A program that computes all the time raises this but
            not `spread`.
        sitting: when these networks were timed side by side; None if unknown.
        runtime: the runtime, such as torch.
        share: an upper bound of the latency over that of the network of base widths; None if the
            two were not timed in turns.
        widths: of the network, if it is one of an architecture.
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
    protocol: int = 1
    spread: float | None = None
    waited: float | None = None
    sitting: str | None = None
    runtime: str = "torch"
    share: float | None = None
    widths: tuple[int, ...] = ()


def choose_latencies(
    measured: Iterable[Measured], networks: Collection[Any] = ()
) -> dict[Any, Measured]:
    """Return the latency that counts for each network, by its widths or the key of its widths.

    The best sitting timed most of `networks`; among equals it is the calmest, then the latest. The
    next best ones supply only the networks that it did not time.

    Args:
        measured: latencies under the same conditions.
        networks: their widths; by default those of all measured networks.
    """
    sittings = defaultdict[str, dict[Any, Measured]](dict)
    for latency in measured:
        sittings[latency.get("sitting") or ""][latency["widths"]] = latency
    wanted = set(networks) or {key for timed in sittings.values() for key in timed}

    def rank(name: str) -> tuple[int, float, str]:
        timed = sittings[name]
        return len(timed.keys() & wanted), -_compute_noise(timed.values()), name

    chosen: dict[Any, Measured] = {}
    for name in sorted(sittings, key=rank, reverse=True):
        chosen = sittings[name] | chosen
    return chosen


def distrust(spreads: Sequence[float | None], waits: Sequence[float | None]) -> str:
    """Return a warning if the machine was busy while networks were timed, else an empty string.

    Args:
        spreads: `Latency.spread` of each network; None or NaN if unknown.
        waits: `Latency.waited` of each network; None or NaN if unknown.
    """
    wide = [spread for spread in spreads if spread is not None and spread > _LARGEST_SPREAD]
    waiting = [share for share in waits if share is not None and share > LONGEST_WAIT]
    reasons = []
    if wide:
        reasons.append(
            f"rounds of {len(wide)} of {len(spreads)} networks differ by more than "
            f"{_LARGEST_SPREAD:.0%} (up to {max(wide):.0%})"
        )
    if waiting:
        reasons.append(
            f"threads of {len(waiting)} of {len(waits)} networks waited for a processor "
            f"(up to {min(max(waiting), 1):.0%} of the time)"  # of all threads together
        )
    if not reasons:
        return ""
    return (
        f"Milliseconds are unreliable: the machine was busy. {' and '.join(reasons).capitalize()}. "
        "When it is quiet, run nsopt latency to measure again: the calmest measurement counts."
    )


def _compute_noise(timed: Iterable[Measured]) -> float:
    """Return the mean of spread plus waiting in a sitting; infinite if a spread is unknown."""
    noise = [
        math.inf if entry.get("spread") is None else entry["spread"] + (entry.get("waited") or 0.0)
        for entry in timed
    ]
    return sum(noise) / len(noise)
