"""Question: what part of a VGG11 ratio-0.25 training step goes into its batches? About 5 %.

Batches (shuffled, cropped, mirrored and normalised on the device) are made with and without a
training step, side by side on the same images. Prints the share of a step that loading takes.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file


import nsopt
from benchmarks.common import random_images, show
from nsopt.compute.device import describe_device, place, resolve_compute, wait_for
from nsopt.data.augmentation import TrainingBatches
from nsopt.scaling.law import floor_widths
from nsopt.tasks.supervise import place_images
from nsopt.training.step import sgd, train_step

_BATCH = 128
_IMAGES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer batches")
    options = parser.parse_args()
    rounds, batches = (3, 20) if options.quick else (7, 60)

    compute = resolve_compute("auto", "auto")
    arch = nsopt.get_architecture("vgg11")
    widths = floor_widths(0.25, arch.base_widths)
    model = place(arch.build(widths), compute.device, arch.layout)
    optimizer = sgd(model, lr=0.01, momentum=0.5, weight_decay=0)
    splits = place_images(random_images(_IMAGES).split(0.1), compute)
    source = TrainingBatches(splits, _BATCH, seed=0)

    def load_only() -> float:
        start = time.perf_counter()
        for _ in range(batches):
            source.next()
        wait_for(compute.device)
        return time.perf_counter() - start

    def load_and_train() -> float:
        start = time.perf_counter()
        for _ in range(batches):
            train_step(model, optimizer, *source.next(), compute)
        wait_for(compute.device)
        return time.perf_counter() - start

    load_and_train()
    pairs = [(load_only(), load_and_train()) for _ in range(rounds)]
    shares = sorted(loading / step for loading, step in pairs)
    results = {
        "loading_ms_per_batch": 1000 * statistics.median(a for a, _ in pairs) / batches,
        "step_ms_per_batch": 1000 * statistics.median(b for _, b in pairs) / batches,
        "loading_share_min": shares[0],
        "loading_share_median": statistics.median(shares),
        "loading_share_max": shares[-1],
        "device": describe_device(compute.device),
    }
    show(results, options.json)


if __name__ == "__main__":
    main()
