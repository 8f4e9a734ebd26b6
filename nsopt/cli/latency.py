"""`nsopt latency`: the networks of a stored comparison, timed again."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from nsopt.cli.options import Count, StorageUrl, StoredArch

if TYPE_CHECKING:
    from nsopt.study.timing import Measured

# Imports inside functions keep `nsopt --help` light.


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """The options of `nsopt latency`."""

    storage: StorageUrl
    """Storage URL of the comparison."""
    name: str | None = None
    """ARCH-DATA-PRESET, where several are stored."""
    arch: StoredArch = None
    batch_size: str = "1,100"
    """Batch sizes: 1,100."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    threads: Count | None = None
    """Threads on a CPU; by default one a core."""


def latency(options: LatencyOptions) -> None:
    """Time the trained networks of a comparison side by side; `nsopt report` shows all timings."""
    from nsopt.cli.console import live_progress
    from nsopt.storage.opening import storage_errors
    from nsopt.study.timing import measure_again
    from nsopt.study.workspace import Workspace

    sizes = _batch_sizes(options.batch_size)
    workspace = Workspace(options.storage, Path())
    with storage_errors(options.storage), live_progress() as progress:
        measured = measure_again(
            workspace,
            options.name,
            options.arch,
            sizes,
            options.device,
            options.threads,
            progress,
        )
    _print(measured)


def _batch_sizes(text: str) -> list[int]:
    from nsopt.errors import NsoptError

    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise NsoptError(f"--batch-size {text!r}: write 1,100")
    return [int(word) for word in words]


def _print(measured: "list[Measured]") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from nsopt.cli.console import console
    from nsopt.methods.registry import method_label
    from nsopt.reports.tables import share

    first = measured[0].latency
    title = f"{first.device}, {first.precision}, torch {first.torch_version}: milliseconds"
    table = Table(box=SIMPLE_HEAD, show_edge=False, title=title)
    for name in ("method", "size", "batch", "median", "quartiles", "spread", "waited"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for network in measured:
        latency = network.latency
        table.add_row(
            method_label(network.method),
            ", ".join(network.sizes),
            f"{latency.batch_size}",
            f"{latency.median_ms:.2f}",
            f"{latency.lower_quartile_ms:.2f} to {latency.upper_quartile_ms:.2f}",
            share(latency.spread),
            share(latency.waited),
        )
    console.print(table)
