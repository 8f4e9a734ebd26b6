"""Claim: the preset `fast` finds the law of the published search with a tenth of its images.

Every protocol differs from a short one in one or two things. For each: the images that its
searches saw, their seconds, the rows of their records and how far these reach, their distance to
the reference (`law_distance`), and the distance between seeds, which is the noise below which
protocols cannot be told apart. With `--epochs` the network that each law proposes at the parameters
of uniform 0.25x is trained, too, with those of the reference and of uniform scaling. The reference
is the mean law of searches in storages (`--reference`), one a seed, made by
`nsopt search --preset paper --iterations 1`.

What is done is kept in `--out`, a line of JSON each, and not run again; a search or a training that
was interrupted goes on.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import nsopt
from nsopt.data.images import ImageData
from nsopt.models.architecture import Architecture
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.cost import CostModel, Widths
from nsopt.scaling.law import PowerLaw, floor_widths, uniform_curve
from nsopt.scaling.solve import solve_widths
from nsopt.session.presets import get_preset
from nsopt.storage.opening import existing_storage
from nsopt.storage.studies import load_studies, only_comparison
from nsopt.storage.trials import read_iterations

_RATIOS = tuple(np.geomspace(0.125, 1.0, 7).tolist())  # at which laws are compared
_RATIO = 0.25  # of the uniform network whose parameters a training may have
_BASE = SearchSettings(
    pretrain_epochs=2,
    prune_every=10,
    filters_per_step=40,
    iterations=1,
    batch_size=128,
    lr=0.05,
)
_FRACTION = 0.045
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "pretrain 1": {"pretrain_epochs": 1},
    "pretrain 2": {},
    "pretrain 5": {"pretrain_epochs": 5},
    "pretrain 8": {"pretrain_epochs": 8},
    "pretrain 5, fraction": {"pretrain_epochs": 5, "filters_per_step": _FRACTION},
    "pretrain 10 of 9000": {"pretrain_epochs": 10, "search_images": 9000},
    "pretrain 20 of 9000": {"pretrain_epochs": 20, "search_images": 9000},
    "pretrain 20 of 9000, fraction": {
        "pretrain_epochs": 20,
        "search_images": 9000,
        "filters_per_step": _FRACTION,
    },
    "pretrain 20 of 4500": {"pretrain_epochs": 20, "search_images": 4500},
    "pretrain 40 of 4500": {"pretrain_epochs": 40, "search_images": 4500},
    "lr 0.1, batches of 256": {"lr": 0.1, "batch_size": 256, "prune_every": 5},
    "every 20": {"prune_every": 20},
    "prune at lr 0.05": {"prune_lr": 0.05},
    "fraction, every 5, decay": {
        "filters_per_step": _FRACTION,
        "prune_every": 5,
        "importance_decay": 0.7,
    },
    "pretrain 5, fraction, every 5, decay": {
        "pretrain_epochs": 5,
        "filters_per_step": _FRACTION,
        "prune_every": 5,
        "importance_decay": 0.7,
    },
    "9 epochs of 9000, batches of 64": {
        "pretrain_epochs": 9,
        "search_images": 9000,
        "filters_per_step": _FRACTION,
        "batch_size": 64,
    },
    "fast": get_preset("fast").settings.search.model_dump(),
}


Run = dict[str, Any]


@dataclass(frozen=True)
class Economy:
    """Searches and trainings on one network and one data set, whose results are kept in `file`."""

    arch: Architecture
    data: ImageData
    file: Path

    def done(self) -> list[Run]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [json.loads(line) for line in lines]

    def run(self, protocol: str, seed: int, epochs: int) -> None:
        """Search, and train for `epochs` where there are any; what is missing of it."""
        law = self._kept({"kind": "search", "protocol": protocol, "seed": seed}, self._search)
        if epochs:
            self.train(protocol, PowerLaw.from_dict(law["law"]), seed, epochs)

    def train(self, name: str, law: PowerLaw, seed: int, epochs: int) -> None:
        """The network that a law proposes, if it is missing."""
        training = {"kind": "training", "protocol": name, "seed": seed, "epochs": epochs}
        self._kept(training, lambda run: self._train(run, law))

    def _kept(self, run: Run, work: Callable[[Run], Run]) -> Run:
        for other in self.done():
            if other.items() >= run.items():
                return other
        result = run | work(run)
        with self.file.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{run}: {result['seconds']:.0f} s", flush=True)
        return result

    def _search(self, run: Run) -> Run:
        changes = {**PROTOCOLS[run["protocol"]], "seed": run["seed"]}
        settings = _BASE.updated(**changes)
        start = time.perf_counter()
        (iteration,) = nsopt.search(
            self.arch, self.data, settings, checkpoint=self._checkpoint(run)
        ).iterations
        seconds = time.perf_counter() - start
        splits = self.data.split(settings.val_fraction).with_train_images(settings.search_images)
        assert settings.prune_every is not None
        images = settings.pretrain_epochs * len(splits.train)
        images += (len(iteration.trajectory.tau) - 1) * settings.prune_every * settings.batch_size
        tau, full = iteration.record.tau, self.arch.cost("params")(self.arch.base_widths)
        return {
            "images": images,
            "seconds": seconds,
            "rows": len(tau),
            "from": float(tau.min() / full),
            "to": float(tau.max() / full),
            "law": iteration.law.to_dict(),
        }

    def _train(self, run: Run, law: PowerLaw) -> Run:
        cost = self.arch.cost("params")
        widths = solve_widths(law, cost, cost(floor_widths(_RATIO, self.arch.base_widths))).widths
        settings = get_preset("quick").settings.training.updated(
            seed=run["seed"], epochs=run["epochs"]
        )
        outcome = nsopt.train(
            self.arch, widths.tolist(), self.data, settings, checkpoint=self._checkpoint(run)
        )
        return {"accuracy": outcome.val_accuracy, "seconds": outcome.seconds}

    def _checkpoint(self, run: Run) -> Path:
        name = "-".join(f"{value}" for value in run.values()).replace(" ", "-")
        return self.file.with_name(f"{self.file.stem}-{name}.pt")


def law_distance(one: PowerLaw, other: PowerLaw, cost: CostModel, base_widths: Widths) -> float:
    """The root mean square difference of the log-widths of two laws, over layers and budgets.

    0.1 means that widths differ by about 10 %. The distance between two searches that differ only
    in their seed is the noise: smaller differences mean nothing.
    """
    budgets = [cost(floor_widths(ratio, base_widths)) for ratio in _RATIOS]
    first, second = (
        np.log(solve_widths(law, cost, budgets, warn=False).widths) for law in (one, other)
    )
    return float(np.sqrt(np.mean(np.square(first - second))))


def reference_law(urls: Sequence[str]) -> PowerLaw:
    """The geometric mean of the laws of the first iterations that storages hold."""
    laws = []
    for url in urls:
        storage = existing_storage(url)
        studies = load_studies(storage, only_comparison(storage))
        laws.append(read_iterations(studies["search"])[0].law)
    return reduce(mul, laws) ** (1 / len(laws))


def rows(
    done: Sequence[Mapping[str, Any]], arch: Architecture, reference: PowerLaw | None
) -> Iterator[Run]:
    """One per protocol, means over its searches and trainings; of laws not searched, trainings."""
    cost, base = arch.cost("params"), arch.base_widths
    for protocol in dict.fromkeys(run["protocol"] for run in done):
        searches, trainings = (
            [run for run in done if run["protocol"] == protocol and run["kind"] == kind]
            for kind in ("search", "training")
        )
        laws = [PowerLaw.from_dict(run["law"]) for run in searches]
        between = [law_distance(*pair, cost, base) for pair in combinations(laws, 2)]
        apart = [law_distance(law, reference, cost, base) for law in laws if reference is not None]
        numbers = ("images", "seconds", "rows", "from", "to")
        yield {
            "protocol": protocol,
            "n": len(searches),
            **{name: _mean([run[name] for run in searches]) for name in numbers},
            "lowest r2": _mean([law.r2.min() for law in laws]),
            "to reference": _mean(apart),
            "between seeds": _mean(between),
            "trainings": len(trainings),
            "accuracy": _mean([run["accuracy"] for run in trainings]),
        }


def _mean(numbers: Sequence[float]) -> float | None:
    return float(np.mean(numbers)) if numbers else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="vgg11")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--protocol", action="append", choices=list(PROTOCOLS), help="default: all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--reference", action="append", default=[], help="a storage's URL")
    parser.add_argument("--out", type=Path, required=True, help="file of what is done")
    options = parser.parse_args()
    data = nsopt.load_data(options.data)
    arch = nsopt.get_architecture(options.arch, len(data.classes), data.image_size, data.channels)
    economy = Economy(arch, data, options.out)
    reference = reference_law(options.reference) if options.reference else None
    others = {"uniform scaling": uniform_curve(arch.base_widths), "reference": reference}
    for seed in range(options.seeds):
        for protocol in options.protocol or PROTOCOLS:
            economy.run(protocol, seed, options.epochs)
        for name, law in others.items() if options.epochs else ():
            if law is not None:
                economy.train(name, law, seed, options.epochs)
    table = pd.DataFrame(rows(economy.done(), arch, reference))
    print(table.to_string(index=False, float_format=lambda number: f"{number:.3g}"))


if __name__ == "__main__":
    main()
