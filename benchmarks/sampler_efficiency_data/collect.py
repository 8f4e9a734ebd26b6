"""Trains VGG11 at many widths on CIFAR-10, for the surrogate of sampler_efficiency.py.

Every configuration has at most the parameters of the uniform network at 0.125x. Kinds: the law of
studies/vgg11-cifar10-quick and uniform, with three seeds each; around the law and around uniform
widths, on the budget; uniform widths with a large spread, below the budget.
Training: 1,000 images a class, of which half validate; 8 epochs, batch 64, learning rate 0.05.
Appends to trainings.csv, and continues it. What is there was trained in bfloat16 on an AMD EPYC,
one thread, at commit da40b4b.
"""

import argparse
import csv
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd

_HERE = Path(__file__).resolve().parent
sys.path[0] = str(_HERE.parents[1])  # it also runs as a file

import nsopt
from benchmarks.sampler_efficiency import BUDGET, DATA, law, perturbed
from nsopt.data.registry import load_data
from nsopt.models.architecture import Architecture
from nsopt.models.registry import get_architecture
from nsopt.scaling.law import uniform_curve

_SETTINGS = nsopt.TrainSettings(epochs=8, batch_size=64, lr=0.05, val_fraction=0.5)
_PER_CLASS = 1000
_SEEDS = 3
_TEST_IMAGES = 500  # it is not used


def configurations(arch: Architecture) -> list[tuple[str, int, list[int]]]:
    """Kind, seed and widths of each training."""
    cost, generator = arch.cost("params"), np.random.default_rng(0)
    uniform = uniform_curve(arch.base_widths)
    centres = {"law": law(), "uniform": uniform}
    found = [
        (kind, seed, nsopt.solve_widths(curve, cost, BUDGET).widths.tolist())
        for kind, curve in centres.items()
        for seed in range(_SEEDS)
    ]
    around = []
    for kind, curve, count, spread, least in (
        ("around law", centres["law"], 30, 0.25, 1.0),
        ("around uniform", uniform, 20, 0.5, 1.0),
        ("below", uniform, 20, 0.7, 0.4),
    ):
        for _ in range(count):
            shift = generator.normal(scale=spread, size=len(arch.base_widths))
            budget = BUDGET * generator.uniform(least, 1.0)
            widths = nsopt.solve_widths(perturbed(curve, shift), cost, budget).widths
            around.append((kind, 0, widths.tolist()))
    return found + [around[place] for place in generator.permutation(len(around))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10", help="CIFAR-10, as `--data` takes it")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    arch = get_architecture("vgg11")
    data = load_data(options.data, options.data_dir).subset(None, _PER_CLASS)
    data = dataclasses.replace(data, test=data.test.take(range(_TEST_IMAGES)))
    done = len(pd.read_csv(DATA)) if DATA.is_file() else 0
    with DATA.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not done:
            writer.writerow(["kind", "seed", "params", "val_accuracy", *arch.layer_names])
        for kind, seed, widths in configurations(arch)[done:]:
            outcome = nsopt.train(arch, widths, data, _SETTINGS.updated(seed=seed))
            params = arch.cost("params")(widths)
            writer.writerow([kind, seed, params, round(outcome.val_accuracy, 2), *widths])
            file.flush()
            print(f"{kind}: {outcome.val_accuracy:.2f} %, {outcome.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
