"""Claim: a traced network is searched as fast as the one written by hand.

The networks written by hand are traced; both are pruned by the same protocol on the same images, in
turn, each in a process of its own, the same part of its filters at every step. Tracing finds more
widths in MobileNetV2, whose expanded channels have their own, so that the networks on the way
differ: the ratio of multiply-accumulates per second tells what that makes of it. Prints both sides
and the median ratios.

Two cores of an AMD EPYC, three rounds, images per second by hand, traced, median ratio (lowest):
MobileNetV2 with tied widths 785, 785, 1.00 (0.96), and 0.73 of the multiply-accumulates per second;
ResNet18 with tied widths 332, 342, 1.04 (1.03), and 1.02.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import nsopt
from benchmarks.common import filters_per_step, in_new_process, random_images, show
from nsopt.compute.device import describe_device, resolve_compute
from nsopt.models.registry import table_architecture
from nsopt.progress import Silent
from nsopt.pruning.engine import iterative_prune
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import place_images

_CLASSES = 10


def speed(name: str, traced: bool, steps: int, batch: int, every: int) -> tuple[float, float]:
    """Images, and multiply-accumulates of forward passes, per second."""
    by_hand = table_architecture(name, _CLASSES)
    arch: nsopt.Architecture = by_hand
    if traced:
        torch.manual_seed(0)
        example = torch.randn(2, *by_hand.input_shape)
        arch = nsopt.trace(by_hand.build(by_hand.base_widths), example, name)
    settings = nsopt.SearchSettings(
        pretrain_epochs=0,
        prune_every=every,
        filters_per_step=filters_per_step(arch, steps),
        batch_size=batch,
    )
    splits, compute = random_images(4 * batch).split(0.1), resolve_compute("auto", "auto")
    start = time.perf_counter()
    trajectory = iterative_prune(
        arch,
        arch.base_widths,
        Classification(place_images(splits, compute)),
        settings,
        compute,
        Silent(),
    )
    seconds = time.perf_counter() - start
    macs = np.asarray(arch.cost("macs")(trajectory.widths[:-1]))
    return macs.size * every * batch / seconds, float(macs.sum()) * every * batch / seconds


def measure(name: str, rounds: int, steps: int, batch: int, every: int) -> dict[str, Any]:
    sides = [
        [in_new_process(speed, name, traced, steps, batch, every) for traced in (False, True)]
        for _ in range(rounds)
    ]
    images, macs = np.array(sides).transpose(2, 1, 0)  # side, round
    by_hand, traced = np.median(images, axis=1)
    ratios, of_macs = images[1] / images[0], macs[1] / macs[0]
    return {
        "by_hand_images_per_s": float(by_hand),
        "traced_images_per_s": float(traced),
        "ratio": float(np.median(ratios)),
        "ratio_min": float(ratios.min()),
        "ratio_of_macs_per_s": float(np.median(of_macs)),
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
