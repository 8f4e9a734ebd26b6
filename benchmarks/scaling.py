"""How the time of a search grows with the base widths and with the number of prune steps.

VGG11 at 0.5, 1 and 2 times its widths, and with 6 to 24 prune steps of equally many mini-batches,
each in a process of its own. Prints seconds, images per second and the memory high-water; masked
networks would take as long per mini-batch at the last step as at the first.
"""

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

from benchmarks.common import filters_per_step, in_new_process, random_images, show
from nsopt.compute.device import describe_device, resolve_compute, wait_for
from nsopt.models.registry import get_architecture
from nsopt.progress import Silent
from nsopt.pruning.engine import iterative_prune
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import floor_widths
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import place_images
from tests.rescaled import with_base_widths


def run_search(
    name: str, factor: float, steps: int, batch: int, prune_every: int, device: str
) -> dict[str, float]:
    """A search that prunes to 5 % in `steps` steps, without pre-training."""
    arch = get_architecture(name)
    arch = with_base_widths(arch, tuple(floor_widths(factor, arch.base_widths)))
    settings = SearchSettings(
        pretrain_epochs=0,
        prune_every=prune_every,
        filters_per_step=filters_per_step(arch, steps),
        batch_size=batch,
        device=device,
    )
    compute = resolve_compute(device, "auto")
    splits = place_images(random_images(10 * batch).split(0.1), compute)
    start = time.perf_counter()
    trajectory = iterative_prune(
        arch, arch.base_widths, Classification(splits), settings, compute, Silent()
    )
    wait_for(compute.device)
    seconds = time.perf_counter() - start
    done = len(trajectory.tau) - 1
    return {
        "params": int(trajectory.tau[0]),
        "steps": done,
        "seconds": round(seconds, 2),
        "images_per_s": round(done * prune_every * batch / seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=("vgg11", "mobilenetv2", "resnet18"), default="vgg11")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer batches")
    options = parser.parse_args()
    batch, prune_every, steps = (32, 1, 8) if options.quick else (128, 2, 12)

    def run(factor: float, steps: int) -> dict[str, Any]:
        size = (options.arch, factor, steps, batch, prune_every, options.device)
        result: dict[str, Any] = in_new_process(run_search, *size)
        return result

    results: dict[str, Any] = {"arch": options.arch, "batch": batch, "prune_every": prune_every}
    for factor in (0.5, 1.0, 2.0):
        results[f"width_{factor:g}x"] = run(factor, steps)
    for count in (steps // 2, 2 * steps):
        results[f"steps_{count}"] = run(1.0, count)
    results["device"] = describe_device(resolve_compute(options.device, "auto").device)
    show(results, options.json)


if __name__ == "__main__":
    main()
