"""Claim: the exact solver answers 1,000 budgets in less time than Algorithm 3 answers a few.

Both follow the same published laws (descent iteration 15) in the same run, with the published step
sizes. Prints the exact solver's median over repetitions, one run of Algorithm 3 at ratio 0.25, and
how far each ends from its budgets.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np

import nsopt
from benchmarks.common import published_law
from nsopt.scaling.law import floor_widths

_RATIOS = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 4, 8)
_PUBLISHED_RATIOS = (0.25, 1, 2)  # what Algorithm 3, the slow one, is run at
_MAX_STEPS = 20_000
_SUBJECTS = {  # number of classes, published eta
    "vgg11": (10, 50.0),
    "mobilenetv2": (100, 1.0),
    "resnet18": (100, 1.0),
}


def median_ms(function: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call, after one to warm up."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def measure(name: str, repeats: int) -> dict[str, float]:
    classes, eta = _SUBJECTS[name]
    arch = nsopt.get_architecture(name, classes)
    cost, law = arch.cost("params"), published_law(name)
    assert isinstance(law, nsopt.PowerLaw)
    budgets = [float(cost(floor_widths(ratio, arch.base_widths))) for ratio in _RATIOS]
    many = np.geomspace(budgets[0], budgets[-1], 1000)
    exact = np.asarray(nsopt.solve_widths(law, cost, budgets).cost)
    published = [
        nsopt.solve_widths_sgd(
            law, cost, float(cost(floor_widths(ratio, arch.base_widths))), eta, _MAX_STEPS
        )
        for ratio in _PUBLISHED_RATIOS
    ]
    start = time.perf_counter()
    nsopt.solve_widths_sgd(law, cost, budgets[2], eta, _MAX_STEPS)
    one = 1000 * (time.perf_counter() - start)
    thousand = median_ms(lambda: nsopt.solve_widths(law, cost, many), repeats)
    return {
        "exact_1000_budgets_ms": thousand,
        "algorithm_3_one_budget_ms": one,
        "ratio_per_budget": one / (thousand / 1000),
        "exact_worst_below": float(np.max(1 - exact / budgets)),
        "algorithm_3_most_steps": max(fit.steps for fit in published),
        "algorithm_3_worst_below": max(-fit.error for fit in published),
        "algorithm_3_worst_above": max(fit.error for fit in published),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args()
    results = {name: measure(name, 3 if options.quick else 15) for name in _SUBJECTS}
    if options.json:
        print(json.dumps(results))
        return
    for name, numbers in results.items():
        print(name)
        for key, value in numbers.items():
            print(f"  {key:28} {value:.4g}")


if __name__ == "__main__":
    main()
