"""Goal: the engine searches 5 (VGG11), 3 (MobileNetV2), 2.5 (ResNet18) times faster than the
published masked protocol, on a CPU. README.md has what was measured: with AMX two of the three.

Both prune the same network on the same batches with the same settings, from the first
pre-training epoch to the last prune step; each in a process of its own, one after the other.
Prints images per second and seconds of the whole search, and their ratio. `--profile` also prints
where the time goes: by phase, and in the library's convolutions and matrix products, which no other
work of the engine can make faster.
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd.profiler import profile

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

from benchmarks.common import StageTimes, filters_per_step, in_new_process, random_images, show
from nsopt.compute.device import describe_device, resolve_compute, use_seed, wait_for
from nsopt.data.images import ImageData
from nsopt.data.registry import load_data
from nsopt.models.registry import get_architecture
from nsopt.pruning.engine import iterative_prune
from nsopt.pruning.settings import SearchSettings
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import place_images
from tests import masked_search

_FULL = {  # batch, prune steps, batches between them
    "vgg11": (256, 24, 4),
    "mobilenetv2": (256, 24, 4),
    "resnet18": (128, 16, 3),
}
_QUICK = {"vgg11": (128, 8, 2), "mobilenetv2": (128, 8, 2), "resnet18": (64, 8, 1)}
PHASES = ("augmentation", "forward", "backward", "optimizer", "scoring", "compaction")
_PRODUCTS = ("mkldnn_convolution", "convolution_backward", "mm", "addmm")  # of the CPU


@dataclass(frozen=True)
class Protocol:
    """A short search with the shares of the paper's: about a tenth of it is pre-training."""

    arch: str
    batch: int
    steps: int
    prune_every: int
    data: str
    data_dir: Path
    device: str

    @property
    def settings(self) -> SearchSettings:
        return SearchSettings(
            pretrain_epochs=1,
            prune_every=self.prune_every,
            filters_per_step=filters_per_step(get_architecture(self.arch), self.steps),
            batch_size=self.batch,
            lr=0.05,
            device=self.device,
        )

    def images(self) -> ImageData:
        """As many as the pre-training epoch takes: a tenth of the batches."""
        count = self.batch * max(1, round(self.steps * self.prune_every / 9))
        if self.data != "random":
            data = load_data(self.data, self.data_dir)
            return data.subset(None, -(-count * 10 // 9 // len(data.classes)))
        return random_images(max(count * 10 // 9, 120))


def run_reference(protocol: Protocol, profiled: bool = False) -> dict[str, Any]:
    """The masked protocol: float32, PyTorch's default memory layout."""
    settings = protocol.settings
    compute = resolve_compute(settings.device, "fp32")
    data = protocol.images()
    splits = place_images(data.split(settings.val_fraction), compute)
    arch = get_architecture(protocol.arch, len(data.classes))
    with use_seed(settings.seed, compute.device):
        search = masked_search.gated(arch, arch.base_widths, device=compute.device)
        with profile(enabled=profiled) as profiler:
            start = time.perf_counter()
            pruning = masked_search.run(search, splits, settings)
            next(pruning)
            wait_for(compute.device)
            pretrained = time.perf_counter()
            steps = len(list(pruning))
            wait_for(compute.device)
            end = time.perf_counter()
    return _result(protocol, len(splits.train), steps, (start, pretrained, end), profiler)


def run_engine(protocol: Protocol, profiled: bool = False) -> dict[str, Any]:
    """The engine, at the precision that `auto` chooses."""
    settings = protocol.settings
    compute = resolve_compute(settings.device, settings.precision)
    data = protocol.images()
    splits = place_images(data.split(settings.val_fraction), compute)
    arch = get_architecture(protocol.arch, len(data.classes))
    clock = StageTimes()
    with profile(enabled=profiled) as profiler:
        start = time.perf_counter()
        record = iterative_prune(
            arch, arch.base_widths, Classification(splits), settings, compute, clock
        )
        wait_for(compute.device)
        end = time.perf_counter()
    steps, times = len(clock.times) - 1, (start, clock.times[0], end)
    result = _result(protocol, len(splits.train), steps, times, profiler)
    macs = np.asarray(arch.cost("macs")(record.widths), dtype=float) / arch.cost("macs")(
        arch.base_widths
    )
    pretraining, pruning = len(splits.train), steps * protocol.prune_every * protocol.batch
    ideal = (pretraining + pruning) / (pretraining + pruning * macs[:steps].mean())
    return result | {"ideal_ratio": ideal}


def _result(
    protocol: Protocol,
    train: int,
    steps: int,
    times: tuple[float, float, float],
    profiler: profile | None,
) -> dict[str, Any]:
    """times: at the start, at the end of pre-training, at the end."""
    start, pretrained, end = times
    pruned = steps * protocol.prune_every * protocol.batch
    events = profiler.key_averages() if profiler is not None else []
    spent = {event.key: round(event.cpu_time_total / 1e6, 2) for event in events}
    phases = {phase: spent[phase] for phase in PHASES if phase in spent}
    phases["in convolutions and products"] = sum(spent.get(f"aten::{op}", 0) for op in _PRODUCTS)
    return {
        "images_per_s": (train + pruned) / (end - start),
        "pruning_images_per_s": pruned / (end - pretrained),
        "seconds": end - start,
        "phases": phases,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=("vgg11", "mobilenetv2", "resnet18"), default="vgg11")
    parser.add_argument("--data", default="random", help="`random`, or a name `--data` takes")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller batches")
    options = parser.parse_args()

    size = _QUICK[options.arch] if options.quick else _FULL[options.arch]
    protocol = Protocol(options.arch, *size, options.data, options.data_dir, options.device)
    rounds = []
    for _ in range(options.repeats):
        reference = in_new_process(run_reference, protocol)
        engine = in_new_process(run_engine, protocol)
        rounds.append((reference, engine))
    ratios = sorted(e["images_per_s"] / r["images_per_s"] for r, e in rounds)
    pruning = [e["pruning_images_per_s"] / r["pruning_images_per_s"] for r, e in rounds]
    results = {
        "arch": options.arch,
        "reference_images_per_s": statistics.median(r["images_per_s"] for r, _ in rounds),
        "engine_images_per_s": statistics.median(e["images_per_s"] for _, e in rounds),
        "reference_seconds": statistics.median(r["seconds"] for r, _ in rounds),
        "engine_seconds": statistics.median(e["seconds"] for _, e in rounds),
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_while_pruning": statistics.median(pruning),
        "ideal_ratio": rounds[0][1]["ideal_ratio"],
        "repeats": options.repeats,
        "device": describe_device(resolve_compute(options.device, "auto").device),
        "threads": torch.get_num_threads(),
    }
    if options.profile:
        for name, run in (("reference", run_reference), ("engine", run_engine)):
            profiled = in_new_process(run, protocol, True)
            results[f"{name}_phase_seconds"] = profiled["phases"] | {"all": profiled["seconds"]}
    show(results, options.json)


if __name__ == "__main__":
    main()
