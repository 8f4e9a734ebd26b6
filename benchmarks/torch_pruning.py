"""Pruning with Torch-Pruning (global group Taylor, iterative) beside nsopt's search.

Both start from the same fresh network and see as many mini-batches of the same size, learning rate
and momentum between as many prune steps; Torch-Pruning removes channels physically at every step,
in float32. Prints the seconds until the network has no more parameters (`--metric macs`: MACs, by
importance per MAC in nsopt) than at ratio 0.25, and what the widths found reach when they are
trained from scratch in the same short way, scaled to exactly this budget: uniformly for
Torch-Pruning, by the power law for nsopt.

Needs one package more: pip install torch-pruning==1.6.1.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
import torch

import nsopt
from benchmarks.common import StageTimes, filters_per_step, in_new_process, show
from nsopt.compute.device import describe_device, resolve_compute, use_seed
from nsopt.data.augmentation import TrainingBatches
from nsopt.data.images import ImageData
from nsopt.data.registry import load_data
from nsopt.models.architecture import Architecture
from nsopt.models.networks import list_members
from nsopt.models.registry import get_architecture
from nsopt.pruning.engine import iterative_prune
from nsopt.pruning.rules import get_size_metric, make_rule
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import floor_widths, uniform_curve
from nsopt.scaling.solve import solve_widths
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import place_images
from nsopt.training.settings import TrainSettings

_RATIO = 0.25


def architecture(word: str, data: ImageData) -> Architecture:
    return get_architecture(word, len(data.classes), data.image_size, data.channels)


def prune_with_nsopt(word: str, data: ImageData, settings: SearchSettings) -> dict[str, Any]:
    """Seconds to the target size and to the end, and the law's widths at the target."""
    arch = architecture(word, data)
    compute = resolve_compute("auto", "auto")
    splits = place_images(data.split(settings.val_fraction), compute)
    clock = StageTimes()
    start = time.perf_counter()
    trajectory = iterative_prune(
        arch, arch.base_widths, Classification(splits), settings, compute, clock
    )
    seconds = time.perf_counter() - start
    metric = get_size_metric(settings.price).name
    small = int(np.flatnonzero(trajectory.tau <= _target(arch, metric))[0])
    law = trajectory.record().law()
    return {
        "seconds": clock.times[settings.pretrain_epochs + small - 1] - start,
        "seconds_to_the_end": seconds,
        "macs": arch.cost("macs")(trajectory.widths[small]),
        "widths": solve_widths(law, arch.cost(metric), _target(arch, metric)).widths.tolist(),
    }


def prune_with_torch_pruning(
    word: str, data: ImageData, settings: SearchSettings
) -> dict[str, Any]:
    """Seconds to the target size, and the widths found, scaled to it."""
    import torch_pruning  # noqa: PLC0415  (optional)

    arch = architecture(word, data)
    compute = resolve_compute("auto", "fp32")
    device, splits = compute.device, place_images(data.split(settings.val_fraction), compute)
    with use_seed(settings.seed, device):
        model = arch.build(arch.base_widths).to(device).train()
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    steps = make_rule(arch, arch.base_widths, settings).steps
    batches = TrainingBatches(splits, settings.batch_size, settings.seed)

    def train(count: int, lr: float) -> None:
        optimizer = torch.optim.SGD(
            model.parameters(), lr, settings.momentum, weight_decay=settings.weight_decay
        )
        for _ in range(count):
            images, labels = batches.next()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    def found() -> list[int]:
        return [
            len(model.get_parameter(f"{made_by(arch, group)}.weight")) // channels
            for group, channels in enumerate(arch.channels_per_unit)
        ]

    metric = get_size_metric(settings.price).name
    start = time.perf_counter()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.zeros(2, *arch.input_shape, device=device),
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=1 - settings.keep_fraction,
        max_pruning_ratio=0.99,
        iterative_steps=steps,
        ignored_layers=[last],
    )
    train(settings.pretrain_epochs * batches.per_epoch, settings.lr)
    assert settings.prune_every is not None
    for _ in range(steps):
        train(settings.prune_every, settings.prune_lr)
        pruner.step()
        if arch.cost(metric)(found()) <= _target(arch, metric):
            break
    seconds = time.perf_counter() - start
    scaled = solve_widths(uniform_curve(found()), arch.cost(metric), _target(arch, metric)).widths
    return {
        "seconds": seconds,
        "found": found(),
        "macs": arch.cost("macs")(found()),
        "widths": scaled.tolist(),
    }


def made_by(arch: Architecture, group: int) -> str:
    """The path of a module that makes the channels of a group."""
    filters = list_members(arch.design.group_of, arch.design.filters)
    return filters[group][0] if filters else arch.layer_names[group]


def retrain(word: str, data: ImageData, widths: list[int], epochs: int, seeds: int) -> list[float]:
    """Test accuracies from scratch, one per seed."""
    arch = architecture(word, data)
    settings = TrainSettings(epochs=epochs, batch_size=64, lr=0.05)
    return [
        nsopt.train(arch, widths, data, settings.updated(seed=seed)).test_accuracy
        for seed in range(seeds)
    ]


def _target(arch: Architecture, metric: str) -> int:
    return int(arch.cost(metric)(floor_widths(_RATIO, arch.base_widths)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="vgg11", help="also torchvision:resnet18, ...")
    parser.add_argument("--data", default="digits", help="a name that `nsopt data list` shows")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--per-class", type=int, help="training images of a class")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--metric", choices=("params", "macs"), default="params")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a fourth of everything")
    options = parser.parse_args()

    data = load_data(options.data, options.data_dir).subset(None, options.per_class)
    steps, prune_every, epochs = (12, 1, 2) if options.quick else (24, 4, options.epochs)
    if options.quick:
        data = data.subset(None, 40 if options.arch == "vgg11" else 20)
    arch = architecture(options.arch, data)
    settings = SearchSettings(
        pretrain_epochs=1,
        prune_every=prune_every,
        filters_per_step=filters_per_step(arch, steps),
        batch_size=32 if options.quick else 128,
        lr=0.05,
        price="macs" if options.metric == "macs" else "filters",
    )
    results: dict[str, Any] = {
        "arch": options.arch,
        "data": data.name,
        "target": _target(arch, options.metric),
    }
    sides = {"torch_pruning": prune_with_torch_pruning, "nsopt": prune_with_nsopt}
    for name, prune in sides.items():
        found = in_new_process(prune, options.arch, data, settings)
        scores = in_new_process(retrain, options.arch, data, found["widths"], epochs, options.seeds)
        results[name] = found | {
            "test_mean": float(np.mean(scores)),
            "test_std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
            "n": len(scores),
        }
    results["ratio"] = results["torch_pruning"]["seconds"] / results["nsopt"]["seconds"]
    results["device"] = describe_device(resolve_compute("auto", "auto").device)
    results["threads"] = torch.get_num_threads()
    show(results, options.json)


if __name__ == "__main__":
    main()
