"""Claim: searched in bfloat16, a law differs from that in float32 less than two seeds differ.

Short searches with the same settings, several seeds, both precisions. Two laws are compared by the
widths they propose at a fourth of the original parameters: the mean over layers of |log(w / w')|.
Prints this distance between the precisions (same seed) and between the seeds (same precision).
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import nsopt
from benchmarks.common import filters_per_step, in_new_process, random_images, show
from nsopt.compute.device import describe_device, resolve_compute
from nsopt.data.images import ImageData
from nsopt.data.registry import load_data
from nsopt.models.registry import get_architecture
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import floor_widths
from nsopt.scaling.solve import solve_widths

_RATIO = 0.25


def log_widths(name: str, data: ImageData, settings: SearchSettings) -> NDArray[np.float64]:
    """Logarithms of the widths that the law of a search proposes, (L,)."""
    arch = get_architecture(name, len(data.classes), data.image_size, data.channels)
    law = nsopt.search(arch, data, settings).law
    cost = arch.cost("params")
    budget = cost(floor_widths(_RATIO, arch.base_widths))
    return np.log(solve_widths(law, cost, budget).widths)


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.mean(np.abs(one - other)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=("vgg11", "mobilenetv2", "resnet18"), default="vgg11")
    parser.add_argument("--data", help="a name that `nsopt data list` shows; random if not given")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--per-class", type=int, default=500, help="training images of a class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="two seeds, fewer images and steps")
    options = parser.parse_args()

    seeds, per_class, steps, batch = options.seeds, options.per_class, 30, 128
    if options.quick:
        seeds, per_class, steps, batch = 2, 20, 16, 32
    data = load_data(options.data, options.data_dir) if options.data else random_images(5000)
    data = data.subset(None, per_class)
    settings = SearchSettings(
        pretrain_epochs=2,
        prune_every=2 if options.quick else 5,
        filters_per_step=filters_per_step(get_architecture(options.arch), steps),
        iterations=1,
        batch_size=batch,
        lr=0.05,
    )
    found = {
        precision: [
            in_new_process(
                log_widths, options.arch, data, settings.updated(precision=precision, seed=seed)
            )
            for seed in range(seeds)
        ]
        for precision in ("fp32", "bf16")
    }
    between_precisions = [_distance(a, b) for a, b in zip(*found.values(), strict=True)]
    between_seeds = [
        _distance(a, b) for laws in found.values() for a, b in itertools.combinations(laws, 2)
    ]
    results: dict[str, Any] = {
        "arch": options.arch,
        "data": data.name,
        "seeds": seeds,
        "between_precisions_mean": float(np.mean(between_precisions)),
        "between_precisions_max": max(between_precisions),
        "between_seeds_mean": float(np.mean(between_seeds)),
        "between_seeds_min": min(between_seeds),
        "ratio": float(np.mean(between_precisions) / np.mean(between_seeds)),
        "device": describe_device(resolve_compute("auto", "auto").device),
    }
    show(results, options.json)


if __name__ == "__main__":
    main()
