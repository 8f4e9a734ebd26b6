"""Which measurements of latency count: those of the calmest complete sitting.

A sitting times networks side by side, so that only its own latencies can be compared.
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

    Only measurements that agree in device, precision, batch_size, torch_version, protocol, runtime
    and repeats can be compared.

    Attributes:
        batch_size: images per batch.
        repeats: passes that were timed.
        device: its name, with its threads.
        precision: of matrix products and convolutions.
        torch_version: of PyTorch.
        protocol: version of nsopt's way to time networks.
        spread: range of the medians of several rounds over the whole median; None for one round.
        waited: time that threads waited for a processor, over the time of the passes; None if the
            system does not say. A program that computes all the time raises this, not spread.
        sitting: when these networks were timed side by side; None if unknown.
        runtime: what ran the networks, such as torch.
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


@dataclass(frozen=True)
class Timing(Latency):
    """What decides whether a network fits. It has all attributes of `Latency`.

    Attributes:
        share: of the milliseconds of the network of base widths, as `measure_beside` returns it;
            None if that was not timed beside it.
    """

    share: float | None = None


def choose_latencies(
    measured: Iterable[Measured], networks: Collection[str] = ()
) -> dict[str, Measured]:
    """Return the latency that counts for each network, by the `width_key` of its widths.

    The sitting that timed most of `networks` comes first, of equal ones the calmest, then the
    latest. Others supply only the networks that it did not time.

    Args:
        measured: latencies under the same conditions.
        networks: width keys; by default those of all that were measured.
    """
    sittings = defaultdict[str, dict[str, Measured]](dict)
    for latency in measured:
        sittings[latency.get("sitting") or ""][latency["widths"]] = latency
    wanted = set(networks) or {key for timed in sittings.values() for key in timed}

    def rank(name: str) -> tuple[int, float, str]:
        timed = sittings[name]
        return len(timed.keys() & wanted), -_compute_noise(timed.values()), name

    found: dict[str, Measured] = {}
    for name in sorted(sittings, key=rank, reverse=True):
        found = sittings[name] | found
    return found


def distrust(spreads: Sequence[float | None], waits: Sequence[float | None]) -> str:
    """Return a warning if the machine was busy while networks were timed, else an empty string.

    Args:
        spreads: of the rounds of each network, as shares; None or NaN if unknown.
        waits: shares of its time for which threads waited for a processor.
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
            f"(up to {max(waiting):.0%} of the time)"
        )
    if not reasons:
        return ""
    return (
        f"Milliseconds are unreliable: the machine was busy. {' and '.join(reasons).capitalize()}. "
        "When it is quiet, run nsopt latency to measure again: the calmest measurement counts."
    )


def _compute_noise(timed: Iterable[Measured]) -> float:
    """Return the mean of spread and waiting of a sitting; infinite if the spread is unknown."""
    noise = [
        math.inf if each.get("spread") is None else each["spread"] + (each.get("waited") or 0.0)
        for each in timed
    ]
    return sum(noise) / len(noise)
