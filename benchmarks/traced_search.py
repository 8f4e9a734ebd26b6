"""Claim: a traced network is searched at four fifths of the speed of the one written by hand.

Measured for MobileNetV2 with tied widths on two cores of an AMD EPYC: 0.86 in three rounds.

The networks written by hand are traced; both are pruned by the same protocol on the same images, in
turn, each in a process of its own. Prints images per second of both sides and the median ratio.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import nsopt
from benchmarks.common import filters_per_step, in_new_process, random_images, show
from nsopt.compute.device import describe_device, resolve_compute
from nsopt.models.registry import table_architecture
from nsopt.progress import Silent
from nsopt.pruning.engine import iterative_prune
from nsopt.training.supervision import Classification

_CLASSES = 10


def images_per_second(name: str, traced: bool, steps: int, batch: int, every: int) -> float:
    by_hand = table_architecture(name, _CLASSES)
    arch: nsopt.Architecture = by_hand
    if traced:
        torch.manual_seed(0)
        example = torch.randn(2, *by_hand.input_shape)
        arch = nsopt.trace(by_hand.build(by_hand.base_widths), example, name)
    settings = nsopt.SearchSettings(
        pretrain_epochs=0,
        prune_every=every,
        filters_per_step=filters_per_step(by_hand, steps),
        batch_size=batch,
    )
    splits, compute = random_images(4 * batch).split(0.1), resolve_compute("auto", "auto")
    start = time.perf_counter()
    trajectory = iterative_prune(
        arch,
        arch.base_widths,
        Classification(splits.to(compute.device)),
        settings,
        compute,
        Silent(),
    )
    return (len(trajectory.widths) - 1) * every * batch / (time.perf_counter() - start)


def measure(name: str, rounds: int, steps: int, batch: int, every: int) -> dict[str, Any]:
    ratios, speeds = [], []
    for _ in range(rounds):
        by_hand, traced = (
            in_new_process(images_per_second, name, traced, steps, batch, every)
            for traced in (False, True)
        )
        speeds.append((by_hand, traced))
        ratios.append(traced / by_hand)
    return {
        "by_hand_images_per_s": statistics.median(speed for speed, _ in speeds),
        "traced_images_per_s": statistics.median(speed for _, speed in speeds),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "device": describe_device(resolve_compute("auto", "auto").device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="mobilenetv2-tied")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller batches, one round")
    options = parser.parse_args()
    rounds, steps, batch, every = (1, 6, 32, 2) if options.quick else (3, 16, 128, 4)
    show(measure(options.arch, rounds, steps, batch, every), options.json)


if __name__ == "__main__":
    main()
