"""Claim: a latency model predicts networks that it has not seen, and orders them better than MACs.

For each network the model is learned anew, and 30 others are timed side by side, half of the passes
before and half after, so that what becomes slower or faster meanwhile, the machine or the memory of
the process, does not count as an error of the model: 10 uniform, 10 along a published law and 10
random ones. Prints the seconds of learning, the mean absolute error, Kendall's tau of the
predictions and, for comparison, of MACs, and the drift from the first half to the second.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

import nsopt
from benchmarks.common import NETWORKS, published_law, show
from nsopt.compute.device import Compute, resolve_compute
from nsopt.latency.measure import measure_latencies
from nsopt.latency.model import learn_latency, sample_widths
from nsopt.latency.record import Latency
from nsopt.latency.runtime import TORCH, draw_images
from nsopt.models.architecture import Architecture
from nsopt.progress import Silent
from nsopt.scaling.law import floor_widths
from nsopt.settings import BATCH_SIZE

_RATIOS = np.geomspace(0.15, 1.0, 10)


def unseen(arch: Architecture) -> list[tuple[int, ...]]:
    """30 networks."""
    law, cost = published_law(arch.name), arch.cost("macs")
    uniform = [floor_widths(ratio, arch.base_widths) for ratio in _RATIOS]
    budgets = [float(cost(widths)) for widths in uniform]
    searched = nsopt.solve_widths(law, cost, budgets).widths
    return [*uniform, *map(tuple, searched.tolist()), *sample_widths(arch, 10, seed=7)]


def measure(name: str, device: str, quick: bool) -> dict[str, float]:
    arch = nsopt.get_architecture(name)
    widths = unseen(arch)
    compute = resolve_compute(device, "fp32")
    before = timed(arch, widths, compute, quick)
    start = time.perf_counter()
    model = learn_latency(arch, compute, Silent(), TORCH)
    seconds = time.perf_counter() - start
    after = timed(arch, widths, compute, quick)
    actual = (medians(before) + medians(after)) / 2
    errors = np.abs(np.asarray(model(widths)) / actual - 1)
    return {
        "seconds": seconds,
        "mean_absolute_error": float(errors.mean()),
        "largest_error": float(errors.max()),
        "kendall_tau": float(kendalltau(model(widths), actual).statistic),
        "kendall_tau_of_macs": float(kendalltau(arch.cost("macs")(widths), actual).statistic),
        "drift": float(np.median(medians(after) / medians(before)) - 1),
        "median_spread": float(np.median([each.spread or 0.0 for each in (*before, *after)])),
    }


def timed(
    arch: Architecture, widths: Sequence[Sequence[int]], compute: Compute, quick: bool
) -> list[Latency]:
    models, images = [arch.build(row) for row in widths], draw_images(arch.input_shape, BATCH_SIZE)
    return measure_latencies(models, images, compute, rounds=4 if quick else 10)


def medians(latencies: Sequence[Latency]) -> NDArray[np.float64]:
    return np.array([latency.median_ms for latency in latencies])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer passes of the unseen networks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    options = parser.parse_args()
    for name in options.networks.split(","):
        if not options.json:
            print(name)
        numbers = measure(name, options.device, options.quick)
        show({"network": name} | numbers if options.json else numbers, options.json)


if __name__ == "__main__":
    main()
