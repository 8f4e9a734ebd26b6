"""Question: how much slower does a process find a network when it has computed others?

In a fresh process the uniform network of 0.25x is timed, then 40 others of the same architecture,
then the first again. Prints both times and their ratio. The memory that the others leave in pieces
is what makes the second longer (`nsopt.compute.memory`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import pandas as pd
import torch

import nsopt
from benchmarks.common import NETWORKS, in_new_process, show
from nsopt.compute.device import describe_device, resolve_compute, sharing
from nsopt.latency.kernel_model import sample_widths
from nsopt.latency.measure import measure_latencies
from nsopt.latency.runtime import draw_images
from nsopt.latency.sittings import Latency
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import floor_widths
from nsopt.settings import BATCH_SIZE

_OTHERS = 40


def measure(name: str) -> dict[str, float]:
    arch = nsopt.get_architecture(name)
    network = floor_widths(0.25, arch.base_widths)
    with sharing(resolve_compute("cpu", "fp32")) as compute, compute.exclusive():
        (fresh,) = timed(arch, [network], repeats=40)
        timed(arch, sample_widths(arch, _OTHERS, seed=0), repeats=4)
        (aged,) = timed(arch, [network], repeats=40)
    return {
        "fresh_ms": fresh.median_ms,
        "aged_ms": aged.median_ms,
        "ratio": aged.median_ms / fresh.median_ms,
    }


def timed(arch: Architecture, networks: Sequence[Sequence[int]], repeats: int) -> list[Latency]:
    models = [arch.build(widths) for widths in networks]
    return measure_latencies(
        models, draw_images(arch.input_shape, BATCH_SIZE), warmup=4, repeats=repeats, rounds=4
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--networks", default=",".join([*NETWORKS, "mobilenetv2-tied"]))
    options = parser.parse_args()
    results: dict[str, Any] = {
        name: in_new_process(measure, name) for name in options.networks.split(",")
    }
    if not options.json:
        table = pd.DataFrame(results).T
        print(table.to_string(float_format=lambda number: f"{number:.2f}"))
        results = {}
    show(results | {"device": describe_device(torch.device("cpu"))}, options.json)


if __name__ == "__main__":
    main()
