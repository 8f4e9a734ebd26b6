"""Trained networks that the benchmarks of compression start from: narrow ones, on few images."""

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import nsopt
from nsopt.compute.device import Compute, resolve_compute
from nsopt.data.images import ImageData
from nsopt.data.registry import load_data
from nsopt.models.architecture import Architecture
from nsopt.models.registry import get_architecture
from nsopt.pruning.inherited import TrainedStart, rank_by_importance
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import place_images
from tests.rescaled import with_base_widths

# Base widths are divided by these, so that a dense network costs about ten million MACs.
DIVISORS = {"vgg11": 4, "resnet18-tied": 8, "mobilenetv2-tied": 2}
_VALIDATION = 0.1
DENSE = nsopt.TrainSettings(
    val_fraction=_VALIDATION,
    epochs=30,
    batch_size=64,
    lr=0.05,
    momentum=0.9,
    schedule="linear",
    warmup_epochs=1.0,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="folder:PATH of images of 32x32 pixels")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--networks", nargs="+", default=["vgg11"], choices=DIVISORS)
    parser.add_argument("--folder", type=Path, required=True, help="for networks and results")


@dataclass(frozen=True, eq=False)
class Dense:
    """A trained network of base widths."""

    name: str
    arch: Architecture
    data: ImageData
    model: nn.Module


def read_images(options: argparse.Namespace) -> ImageData:
    """Return so many training images, and all test images."""
    data = load_data(options.data)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    return replace(data, train=data.train.take(order[: options.images].tolist()))


def train_dense(name: str, data: ImageData, folder: Path, epochs: int = DENSE.epochs) -> Dense:
    """Return a trained network; the first call trains it, and keeps its weights in `folder`."""
    whole = get_architecture(name, len(data.classes), data.image_size, data.channels)
    narrow = tuple(width // DIVISORS[name] for width in whole.base_widths)
    arch = with_base_widths(whole, narrow)
    model, file = arch.build(narrow), folder / f"{name}-{epochs}.pt"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / f"{name}-{epochs}.checkpoint"
        settings = DENSE.updated(epochs=epochs)
        outcome = nsopt.train(arch, narrow, data, settings, checkpoint=checkpoint)
        torch.save(outcome.model.state_dict(), file)
        print(f"{name}: dense network, test {outcome.test_accuracy:.2f} %", flush=True)
    model.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    return Dense(name, arch, data, model.eval())


def rank_dense(dense: Dense) -> tuple[TrainedStart, Classification, Compute]:
    """Return the network with the ranking of its units, and the images it was measured on."""
    compute = resolve_compute("auto", "auto")
    splits = place_images(dense.data.split(_VALIDATION), compute)
    images, search = Classification(splits), nsopt.SearchSettings(val_fraction=_VALIDATION)
    ranking = rank_by_importance(dense.arch, dense.model, images, search, compute, batches=20)
    return TrainedStart(dense.arch, dense.model, ranking), images, compute


def read_widths(arch: Architecture) -> Callable[[nn.Module], tuple[int, ...]]:
    """Return a function that reads the widths of a network with the layers of `arch`."""
    base = np.array(arch.base_widths)
    whole, places = arch.build(arch.base_widths).state_dict(), list[str]()
    for one_less in base - np.eye(len(base), dtype=int):
        narrower = arch.build(tuple(one_less.tolist())).state_dict()
        places.append(next(k for k in whole if whole[k].shape[:1] != narrower[k].shape[:1]))
    units = [len(whole[key]) // width for key, width in zip(places, arch.base_widths, strict=True)]

    def read(network: nn.Module) -> tuple[int, ...]:
        weights = network.state_dict()
        return tuple(len(weights[key]) // n for key, n in zip(places, units, strict=True))

    return read


class Results:
    """Rows of a benchmark in a JSON-lines file; the same call repeats none."""

    def __init__(self, file: Path, keys: Sequence[str]) -> None:
        self._file, self._keys = file, keys
        lines = file.read_text().splitlines() if file.is_file() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def has(self, **key: Any) -> bool:
        return any(all(row[name] == key[name] for name in self._keys) for row in self.rows)

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def add_all(
        self, run: Callable[..., list[dict[str, Any]]], calls: Iterable[Sequence[Any]], number: int
    ) -> None:
        """Add the rows that `run` returns for each tuple of arguments, in so many processes."""
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(number, mp_context=spawn) as pool:
            for done in as_completed([pool.submit(run, *call) for call in calls]):
                try:
                    for row in done.result():
                        self.add(**row)
                except Exception as error:  # the other calls go on
                    print(f"failed: {type(error).__name__}: {error}", flush=True)
