"""`nsopt latency`: time the networks of a stored study again."""

from dataclasses import dataclass

from cyclopts import Parameter

from nsopt.cli.console import console, live_progress, make_table
from nsopt.cli.options import ComputeOptions, RuntimeOptions
from nsopt.cli.values import StoredNetworkOptions, StoredOptions
from nsopt.errors import NsoptError

_LARGEST = 1_000_000  # images in a batch


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LatencyOptions(ComputeOptions, StoredNetworkOptions, StoredOptions):
    batch_size: str | None = None
    """Images per batch, for one timing each; by default 1, 100 and that of the study."""
    timing: RuntimeOptions = RuntimeOptions()


def latency(options: LatencyOptions = LatencyOptions()) -> None:
    """Time the trained networks of a study again; `nsopt report` writes all to latencies.csv."""
    from nsopt.latency.record import distrust
    from nsopt.latency.runtime import choose_runtime
    from nsopt.methods.registry import method_label
    from nsopt.scaling.metric import format_ms
    from nsopt.session.runner import measure_again
    from nsopt.tasks.supervise import import_given_task

    sizes, chosen = None, options.timing.chosen
    runtime = None if chosen is None else choose_runtime(chosen)
    if options.batch_size is not None:
        words = [word.strip() for word in options.batch_size.split(",")]
        if not all(word.isdecimal() and 0 < int(word) <= _LARGEST for word in words):
            raise NsoptError(
                f"--batch-size {options.batch_size!r:.200}: write numbers such as 1,100"
            )
        sizes = list(map(int, words))
    url = options.find_url()
    with live_progress() as progress:
        measured = measure_again(
            url,
            progress,
            batch_sizes=sizes,
            name=options.name,
            arch_name=options.arch,
            device=options.device,
            threads=options.threads,
            runtime=runtime,
            task=import_given_task(options.task),
        )
    latencies = [latency for _, latency in measured]
    first = latencies[0]
    timed_in = first.runtime if first.runtime != "torch" else f"torch {first.torch_version}"
    title = f"{first.device}, {first.precision}, {timed_in}: milliseconds per batch"
    rows = [
        {
            "method": method_label(network.method),
            "size": ", ".join(network.sizes),
            "batch": str(latency.batch_size),
            "median": format_ms(latency.median_ms),
            "ratio": f"{latency.ratio:.3f}",
            "spread": "" if latency.spread is None else f"{latency.spread:.0%}",
        }
        for network, latency in measured
    ]
    console.print(make_table(rows, title, left=("method", "size")))
    if warning := distrust([latency.spread for latency in latencies]):
        console.print(warning)
