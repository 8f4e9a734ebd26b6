"""Claim: the exact solver answers 1,000 budgets in less time than Algorithm 3 answers one.

Both follow the same law of VGG11 (fitted to a published prune record) in the same run. Prints
medians over repetitions, and how far each ends from its budgets.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import nsopt
from nsopt.scaling.curves import floor_widths

_LAWS = Path(__file__).parents[1] / "tests" / "golden" / "vgg11-cifar10.laws.json"
_RATIOS = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 4, 8)


def median_ms(function: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call, after one to warm up."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args()
    repeats = 3 if options.quick else 15

    arch = nsopt.get_architecture("vgg11")
    cost = arch.cost("params")
    law = nsopt.PowerLaw.from_dict(json.loads(_LAWS.read_text())[-1])
    budgets = [float(cost(floor_widths(ratio, arch.base_widths))) for ratio in _RATIOS]
    many = np.geomspace(budgets[0], budgets[-1], 1000)

    exact = np.asarray(nsopt.solve_widths(law, cost, budgets).cost)
    published = [nsopt.solve_widths_sgd(law, cost, budget) for budget in budgets]
    one_by_sgd = median_ms(lambda: nsopt.solve_widths_sgd(law, cost, budgets[2]), repeats)
    thousand = median_ms(lambda: nsopt.solve_widths(law, cost, many), repeats)
    results = {
        "exact_1000_budgets_ms": thousand,
        "algorithm_3_one_budget_ms": one_by_sgd,
        "ratio_per_budget": one_by_sgd / (thousand / 1000),
        "exact_worst_error": float(np.max(np.abs(exact / budgets - 1))),
        "algorithm_3_worst_error": max(abs(fit.error) for fit in published),
        "algorithm_3_above_budget": sum(fit.error > 0 for fit in published),
    }
    if options.json:
        print(json.dumps(results))
    else:
        for name, value in results.items():
            print(f"{name:28} {value:.4g}")


if __name__ == "__main__":
    main()
