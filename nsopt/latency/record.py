"""The record of a timed network, and where records are remembered."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

LARGEST_SPREAD = 0.15
# Only records that agree in these can be compared.
CONDITIONS = ["device", "precision", "batch_size", "torch_version", "protocol", "runtime"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch, and the ratio to those of the network of base widths.

    Attributes:
        median_ms: median.
        batch_size: images per batch.
        repeats: number of timed passes.
        device: name of the device, with its number of threads.
        precision: precision of matrix products and convolutions.
        torch_version: PyTorch's version.
        protocol: version of nsopt's protocol of timing.
        runtime: the runtime, such as torch.
        ratio: median over rounds of its time over that of the network of base widths, timed in
            turns; 1 for that network itself, and for one that was timed alone.
        bound: a value that the true median of the ratios exceeds in one case of 40.
        spread: interquartile range of these ratios over their median; of milliseconds for a network
            that was timed alone. None for one round.
        when: date and time.
        widths: of the network, if it is one of an architecture.
    """

    median_ms: float
    batch_size: int
    repeats: int
    device: str
    precision: str = "fp32"
    torch_version: str = "unknown"
    protocol: int = 1
    runtime: str = "torch"
    ratio: float = 1.0
    bound: float = 1.0
    spread: float | None = None
    when: str = ""
    widths: tuple[int, ...] = ()

    def relative_to(self, whole: "Latency") -> "Latency":
        """Return this record in milliseconds of the same hour as those of the whole network."""
        return replace(self, median_ms=self.ratio * whole.median_ms)


def distrust(spreads: Sequence[float | None]) -> str:
    """Return a warning if rounds of some networks differ much, else an empty string.

    Args:
        spreads: `Latency.spread` of each network; None or NaN if unknown.
    """
    wide = [spread for spread in spreads if spread is not None and spread > LARGEST_SPREAD]
    if not wide:
        return ""
    return (
        f"Milliseconds of {len(wide)} of {len(spreads)} networks are unreliable: their rounds "
        f"differ by more than {LARGEST_SPREAD:.0%} (up to {max(wide):.0%}). The machine was busy: "
        "when it is quiet, run nsopt latency to measure again."
    )


class Store:
    """Remembers what was timed, and the widths that were chosen: here in this process alone."""

    def __init__(self) -> None:
        self._latencies: list[Latency] = []
        self._widths: dict[str, tuple[int, ...]] = {}

    def read(self) -> Sequence[Latency]:
        """Return the latencies of all networks, under any conditions."""
        return self._latencies

    def write(self, latency: Latency) -> None:
        self._latencies.append(latency)

    def read_widths(self, budget: Sequence[object]) -> tuple[int, ...] | None:
        """Return the widths that were chosen for a key (`MeasuredBudget.identify`)."""
        return self._widths.get(repr(budget))

    def write_widths(self, budget: Sequence[object], widths: tuple[int, ...]) -> None:
        self._widths[repr(budget)] = widths
