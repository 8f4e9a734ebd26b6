"""What would a line over MACs cost in place of the kernel model that predicts milliseconds?

`nsopt.compress` makes a network of half of the milliseconds, once with each. Its clock is the
kernel model of this machine, so that nothing is noisy and one of the two is exact. Prints MACs,
milliseconds by this clock, and accuracies after fine-tuning, for each of its seeds. It continues
where it stopped.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

from torch import nn

import nsopt
from benchmarks.trained import (
    Dense,
    Results,
    add_arguments,
    read_images,
    read_widths,
    train_dense,
)
from nsopt.compute.device import Compute, resolve_compute
from nsopt.latency import timer
from nsopt.latency.kernel_model import latency_model
from nsopt.latency.learn import learn_latency
from nsopt.latency.model import LatencyModel
from nsopt.latency.runtime import Runtime
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress, Silent

ARMS = "kernels", "line"


def compress(
    dense: Dense, clock: LatencyModel, arm: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return the fine-tuned networks of a call of `nsopt.compress` as rows."""
    widths_of, macs = read_widths(dense.arch), dense.arch.cost("macs")

    def learn(
        arch: Architecture, compute: Compute, progress: Progress, runtime: Runtime, *_: Any
    ) -> Any:
        if arm == "kernels":
            return clock
        return learn_latency(arch, compute, progress, runtime)  # which only measures

    def measure(network: nn.Module, batch: Any) -> float:
        return float(clock(widths_of(network)))

    call = partial(nsopt.compress, dense.model, dense.data, ["latency=50%"], arch=dense.arch)
    with patch.object(timer, "learn_latency", learn):
        result = call(epochs=options.epochs, seeds=options.seeds, measure=measure)
    found = result.results.outcomes.query("method != 'dense'")
    return [
        {
            **{"method": row["method"], "seed": row["seed"], "widths": list(row["widths"])},
            **{"macs": int(macs(row["widths"])), "ms": float(clock(row["widths"]))},
            **{"validation": row["score"], "test": row["test_score"]},
        }
        for row in found.to_dict("records")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = read_images(options)
    rows = Results(options.folder / "latency_line.jsonl", ("network", "arm"))
    for name in options.networks:
        dense = train_dense(name, data, options.folder)
        clock = latency_model(dense.arch, resolve_compute("cpu", "fp32"), Silent())
        whole = float(clock(dense.arch.base_widths))
        print(f"{name}: {whole:.1f} ms by the clock, at least {clock.floor:.1f}")
        for arm in [arm for arm in ARMS if not rows.has(network=name, arm=arm)]:
            for row in compress(dense, clock, arm, options):
                rows.add(network=name, arm=arm, **row)


if __name__ == "__main__":
    main()
