"""Claim: a latency model predicts networks that it has not seen, and orders them better than MACs.

For each network the model is learned anew, then 30 others are timed side by side: 10 uniform,
10 along a published law and 10 random ones. Prints the seconds of learning, the mean absolute
error, and Kendall's tau of the predictions and, for comparison, of MACs.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
from scipy.stats import kendalltau

import nsopt
from benchmarks.common import NETWORKS, published_law, show
from nsopt.compute.device import resolve_compute
from nsopt.experiments.sharing import sharing
from nsopt.latency.learn import latency_model, sample_widths
from nsopt.latency.measure import measure_latencies
from nsopt.models.architecture import Architecture
from nsopt.progress import Silent
from nsopt.scaling.law import floor_widths

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
    with (
        sharing(resolve_compute(device, "fp32")) as compute,
        tempfile.TemporaryDirectory() as folder,
    ):
        start = time.perf_counter()
        model = latency_model(arch, compute, Silent(), Path(folder))
        seconds = time.perf_counter() - start
        with compute.exclusive():
            timed = measure_latencies(
                [arch.build(row) for row in widths],
                arch.input_shape,
                warmup=8,
                repeats=12 if quick else 40,
                rounds=4,
                device=str(compute.device),
            )
    actual = np.array([latency.median_ms for latency in timed])
    errors = np.abs(np.asarray(model(widths)) / actual - 1)
    return {
        "seconds": seconds,
        "mean_absolute_error": float(errors.mean()),
        "largest_error": float(errors.max()),
        "kendall_tau": float(kendalltau(model(widths), actual).statistic),
        "kendall_tau_of_macs": float(kendalltau(arch.cost("macs")(widths), actual).statistic),
        "median_spread": float(np.median([latency.spread or 0.0 for latency in timed])),
    }


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
