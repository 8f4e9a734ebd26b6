"""Claim: training runs several times faster than a plain PyTorch loop, at the same images.

The plain loop: DataLoader with two workers, torchvision's RandomCrop, RandomHorizontalFlip,
ToTensor and Normalize, float32, SGD. Both train VGG11 for whole epochs at batch 128, each in a
process of its own. Prints images per second at ratios 0.25 and 1.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import nsopt
from benchmarks.common import in_new_process, random_images, show
from nsopt.compute.device import describe_device, resolve_compute
from nsopt.data.images import ImageSet
from nsopt.models.architecture import Architecture
from nsopt.models.registry import get_architecture
from nsopt.scaling.law import floor_widths
from nsopt.settings import Precision
from nsopt.torchvision_import import import_torchvision
from nsopt.training.settings import TrainSettings

_BATCH = 128
_VALIDATION = 0.02
_FULL = ((0.25, 25600), (1.0, 5120))  # ratio, training images
_QUICK = ((0.25, 5120), (1.0, 1024))


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Images as torchvision's data sets give them."""

    def __init__(self, images: ImageSet, transform: Any) -> None:
        self._pixels = images.images.permute(0, 2, 3, 1).numpy()
        self._labels = images.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture: torch.Tensor = self._transform(Image.fromarray(self._pixels[index]))
        return picture, self._labels[index]


def run_plain(images: int, epochs: int, ratio: float, device: str) -> float:
    """Images per second of a plain loop."""
    import_torchvision("datasets")  # makes torchvision importable beside a CPU build of torch
    from torchvision import transforms  # noqa: PLC0415

    splits = random_images(images).split(_VALIDATION)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((splits.mean / 255).tolist(), (splits.std / 255).tolist()),
        ]
    )
    where = resolve_compute(device, "fp32").device
    loader = DataLoader(
        Pictures(splits.train, transform),
        _BATCH,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",  # torchvision is imported already
    )
    arch = get_architecture("vgg11")
    model = arch.build(_widths(arch, ratio)).to(where).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5, weight_decay=5e-4)
    start = time.perf_counter()
    for _ in range(epochs):
        for pictures, labels in loader:
            optimizer.zero_grad()
            logits = model(pictures.to(where))
            torch.nn.functional.cross_entropy(logits, labels.to(where)).backward()
            optimizer.step()
    if where.type == "cuda":
        torch.cuda.synchronize()
    return epochs * len(splits.train) / (time.perf_counter() - start)


def run_nsopt(images: int, epochs: int, ratio: float, device: str, precision: Precision) -> float:
    """Images per second of `nsopt.train`, its evaluations included."""
    data = random_images(images)
    settings = TrainSettings(
        epochs=epochs,
        batch_size=_BATCH,
        lr=0.05,
        val_fraction=_VALIDATION,
        device=device,
        precision=precision,
    )
    arch = get_architecture("vgg11")
    outcome = nsopt.train(arch, _widths(arch, ratio), data, settings)
    return epochs * len(data.split(_VALIDATION).train) / outcome.seconds


def _widths(arch: Architecture, ratio: float) -> tuple[int, ...]:
    return tuple(floor_widths(ratio, arch.base_widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer images")
    options = parser.parse_args()

    results: dict[str, Any] = {}
    for ratio, images in _QUICK if options.quick else _FULL:
        sides: dict[str, list[float]] = {"plain": [], "fp32": [], "auto": []}
        for _ in range(options.repeats):
            sides["plain"].append(in_new_process(run_plain, images, 2, ratio, options.device))
            for precision in ("fp32", "auto"):
                speed = in_new_process(run_nsopt, images, 2, ratio, options.device, precision)
                sides[precision].append(speed)
        pairs = zip(sides["auto"], sides["plain"], strict=True)
        ratios = sorted(fast / plain for fast, plain in pairs)
        results[f"{ratio:g}x"] = {
            **{f"{name}_images_per_s": statistics.median(s) for name, s in sides.items()},
            "ratio": statistics.median(ratios),
            "ratio_min": ratios[0],
        }
    results |= {
        "repeats": options.repeats,
        "device": describe_device(resolve_compute(options.device, "auto").device),
        "threads": torch.get_num_threads(),
    }
    show(results, options.json)


if __name__ == "__main__":
    main()
