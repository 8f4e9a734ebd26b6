"""Question: is cutting pruned channels out at every prune step as good as any other interval?

A search is timed piece by piece while its network shrinks: a mini-batch at every size, and what a
prune step costs, the slower first mini-batch on new shapes included. From these follows how long
the whole would take if channels were cut out at every k-th prune step only and masked meanwhile,
for several numbers Q of mini-batches between prune steps. An interval chosen while the clock runs
would make results depend on the clock, so a constant is what the engine uses.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

from benchmarks.common import filters_per_step, in_new_process, random_images, show
from nsopt.compute.device import describe_device, resolve_compute, wait_for
from nsopt.models.registry import get_architecture
from nsopt.pruning.engine import PruneSchedule, ShrinkingNetwork
from nsopt.pruning.rules import make_rule
from nsopt.pruning.settings import SearchSettings
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import place_images
from nsopt.training.kernels import fast_kernels

_INTERVALS = (1, 2, 4, 8, 12)


def time_pieces(name: str, batch: int, steps: int, batches: int, device: str) -> dict[str, Any]:
    """Seconds of a mini-batch at every size, and of every prune step."""
    arch = get_architecture(name)
    settings = SearchSettings(
        pretrain_epochs=0,
        prune_every=batches,
        filters_per_step=filters_per_step(arch, steps),
        batch_size=batch,
        device=device,
    )
    compute = resolve_compute(device, "auto")
    splits = place_images(random_images(10 * batch).split(0.1), compute)

    def timed(work: Any) -> float:
        start = time.perf_counter()
        work()
        wait_for(compute.device)
        return time.perf_counter() - start

    steady, cuts = [], []
    network = ShrinkingNetwork(arch, arch.base_widths, Classification(splits), settings, compute)
    with fast_kernels(network.model):
        rule = make_rule(arch, arch.base_widths, settings)
        schedule = PruneSchedule(rule.steps, network.batches_per_epoch, settings)
        cut = 0.0
        for _ in range(schedule.steps):
            seconds = [timed(lambda: network.train_batch(0.01, score=True)) for _ in range(batches)]
            steady.append(statistics.median(seconds[1:]))
            cuts.append(cut + max(0.0, seconds[0] - steady[-1]))
            start = time.perf_counter()
            if not network.prune(rule, schedule.count_steps(network.batches)):
                break
            cut = time.perf_counter() - start
    return {
        "batch_seconds": steady,
        "cut_seconds": cuts[1:],
        "device": describe_device(compute.device),
    }


def whole(pieces: dict[str, Any], interval: int, prune_every: int) -> float:
    """Seconds of the pruning phase when channels are cut out at every `interval`-th step."""
    steady = pieces["batch_seconds"]
    batches = sum(steady[step - step % interval] for step in range(len(steady)))
    cuts = (len(steady) - 1) / interval
    return float(prune_every * batches + statistics.mean(pieces["cut_seconds"]) * cuts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=("vgg11", "mobilenetv2", "resnet18"), default="vgg11")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer prune steps, smaller batches")
    options = parser.parse_args()
    batch, steps, batches = (32, 24, 3) if options.quick else (128, 48, 4)
    pieces = in_new_process(time_pieces, options.arch, batch, steps, batches, options.device)
    results = {
        "arch": options.arch,
        "batch": batch,
        "prune_steps": steps,
        "batch_ms_first": 1000 * pieces["batch_seconds"][0],
        "batch_ms_last": 1000 * pieces["batch_seconds"][-1],
        "cut_ms": 1000 * statistics.mean(pieces["cut_seconds"]),
        "device": pieces["device"],
    }
    for prune_every in (1, 2, 5, 10, 50):
        seconds = {k: whole(pieces, k, prune_every) for k in (*_INTERVALS, steps)}
        best = min(seconds, key=lambda k: seconds[k])
        results[f"Q{prune_every}"] = {
            "best_interval": best,
            "every_step_over_best": round(seconds[1] / seconds[best], 4),
            **{f"interval_{k}": round(value / seconds[1], 3) for k, value in seconds.items()},
        }
    show(results, options.json)


if __name__ == "__main__":
    main()
