"""Claim: the exact solver answers 1,000 budgets in less time than Algorithm 3 answers a few.

Both follow the same laws in the same run: a published one of VGG11, and for the other networks one
of the exponents that their searches give. Prints medians over repetitions, and how far each ends
from its budgets.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import nsopt
from nsopt.models.architecture import Architecture
from nsopt.scaling.curves import floor_widths
from nsopt.scaling.law_file import read_law

_VGG11_LAW = Path(__file__).parents[1] / "tests" / "golden" / "vgg11-cifar10.laws.json"
_RATIOS = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 4, 8)
_ETA = {"vgg11": 50.0, "mobilenetv2": 1.0, "resnet18": 1.0}  # as published


def median_ms(function: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call, after one to warm up."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def law_of(arch: Architecture) -> nsopt.PowerLaw:
    """The published law of VGG11; else base widths at the base size, exponents 0.3 to 0.6."""
    if arch.name == "vgg11":
        return read_law(_VGG11_LAW)
    base = np.array(arch.base_widths, dtype=np.float64)
    beta = np.linspace(0.3, 0.6, base.size)
    size = float(arch.cost("params")(arch.base_widths))
    return nsopt.PowerLaw(base / size**beta, beta, np.ones_like(base))


def measure(name: str, repeats: int) -> dict[str, float]:
    arch = nsopt.get_architecture(name, num_classes=100)
    cost, law, eta = arch.cost("params"), law_of(arch), _ETA[name]
    budgets = [float(cost(floor_widths(ratio, arch.base_widths))) for ratio in _RATIOS]
    many = np.geomspace(budgets[0], budgets[-1], 1000)
    exact = np.asarray(nsopt.solve_widths(law, cost, budgets).cost)
    published = [nsopt.solve_widths_sgd(law, cost, budget, eta) for budget in budgets]
    one = median_ms(lambda: nsopt.solve_widths_sgd(law, cost, budgets[2], eta), repeats)
    thousand = median_ms(lambda: nsopt.solve_widths(law, cost, many), repeats)
    return {
        "exact_1000_budgets_ms": thousand,
        "algorithm_3_one_budget_ms": one,
        "ratio_per_budget": one / (thousand / 1000),
        "exact_worst_below": float(np.max(1 - exact / budgets)),
        "algorithm_3_worst_below": max(-fit.error for fit in published),
        "algorithm_3_worst_above": max(fit.error for fit in published),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args()
    results = {name: measure(name, 3 if options.quick else 15) for name in _ETA}
    if options.json:
        print(json.dumps(results))
        return
    for name, numbers in results.items():
        print(name)
        for key, value in numbers.items():
            print(f"  {key:28} {value:.4g}")


if __name__ == "__main__":
    main()
