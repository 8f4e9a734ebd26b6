"""Question: would training steps gain by float32, or by widths rounded up, where these are faster?

Filters of zeros would round widths up without changing what a network computes. For networks along
the published laws, from the original size down to an eighth of every width, one training step is
timed next to the same in float32 and next to that of a network of the rounded widths, in turn, in
seconds of the processor. Prints medians of the ratios: below 1 the other way is faster. `first` is
what the first step on new shapes takes more, in steps; a search meets new shapes at every prune
step.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import pandas as pd
import torch

import nsopt
from benchmarks.common import NETWORKS, in_new_process, published_law, show
from nsopt.compute.device import Compute, describe_device, place, resolve_compute
from nsopt.compute.memory import keep_memory
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import floor_widths
from nsopt.training.kernels.swap import fast_kernels
from nsopt.training.step import sgd, train_step

_RATIOS = (1, 0.5, 0.25, 0.125)
_MULTIPLES = (8, 16, 32)
_BATCH = 128


class Step:
    """Training steps of one network on the same random batch."""

    def __init__(self, arch: Architecture, widths: Sequence[int], compute: Compute) -> None:
        self.model = place(arch.build(widths), compute.device, arch.layout)
        optimizer = sgd(self.model, 0.01, 0.5, 5e-4)
        images = torch.randn(_BATCH, *arch.input_shape)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(arch.num_classes, (_BATCH,))
        self._run = partial(train_step, self.model, optimizer, images, labels, compute)

    def seconds(self) -> tuple[float, float]:
        """Of a step after another network's, and of the next: oneDNN keeps 1,024 kernels."""
        with fast_kernels(self.model):
            start = time.process_time()
            self._run()
            between = time.process_time()
            self._run()
            return between - start, time.process_time() - between


def rounded_up(widths: Sequence[int], multiple: int) -> list[int]:
    return [-(-width // multiple) * multiple for width in widths]


def measure(name: str, ratio: float, rounds: int) -> dict[str, float]:
    """Of the network on the published law at the parameters of the uniform one of `ratio`."""
    torch.set_num_threads(1)
    arch = nsopt.get_architecture(name)
    cost, law = arch.cost("params"), published_law(name)
    fit = nsopt.solve_widths(law, cost, float(cost(floor_widths(ratio, arch.base_widths))))
    widths = fit.widths.tolist()
    bf16, fp32 = (resolve_compute("cpu", precision) for precision in ("bf16", "fp32"))
    steps = {"usual": Step(arch, widths, bf16), "float32": Step(arch, widths, fp32)} | {
        f"up to {multiple}": Step(arch, rounded_up(widths, multiple), bf16)
        for multiple in _MULTIPLES
    }
    with keep_memory(bf16.device):
        Step(arch, floor_widths(0.05, arch.base_widths), bf16).seconds()
        first, _ = steps["usual"].seconds()
        times = [{key: step.seconds()[1] for key, step in steps.items()} for _ in range(rounds)]
    usual = statistics.median(by_name["usual"] for by_name in times)
    ratios = {
        key: statistics.median(by_name[key] / by_name["usual"] for by_name in times)
        for key in steps
        if key != "usual"
    }
    return {"ms": 1000 * usual, "first": first / usual - 1, **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    rounds = 5 if options.quick else 15
    results: dict[str, Any] = {
        f"{name} {ratio}x": in_new_process(measure, name, ratio, rounds)
        for name in NETWORKS
        for ratio in _RATIOS
    }
    if not options.json:
        table = pd.DataFrame(results).T
        print(table.to_string(float_format=lambda number: f"{number:.2f}"))
        results = {}
    show(results | {"device": describe_device(torch.device("cpu"))}, options.json)


if __name__ == "__main__":
    main()
