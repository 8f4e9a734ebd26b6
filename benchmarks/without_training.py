"""How good are smaller networks that are fitted without training (`nsopt.fit`)?

Takes a trained network and some hundred inputs without labels. At each share of its MACs it prints
the test accuracy of uniform widths that inherit, of the same widths fitted, with filters chosen by
norms, by importance (which needs labels) and by what the fit loses, of the widths that lose least
per cost, and of those halfway to uniform ones. Beside them: Torch-Pruning's network before
fine-tuning, and its widths, fitted. Every seed takes other inputs. All run as they are traced.

Needs one package more: pip install torch-pruning==1.6.1.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
import torch
from torch import nn

import nsopt
from benchmarks.compression import make_example, prune_once
from benchmarks.trained import (
    Dense,
    Results,
    add_arguments,
    rank_dense,
    read_images,
    read_widths,
    train_dense,
)
from nsopt.data.augmentation import normalise
from nsopt.data.images import ImageSet, Splits
from nsopt.models.trace import trace
from nsopt.progress import Silent
from nsopt.pruning.fitting.fit import fit_network
from nsopt.pruning.fitting.plan import Inputs
from nsopt.pruning.inherited import TrainedStart
from nsopt.pruning.ranking import UnitRanking, join_streams, rank_by_fit

Arm = tuple[str, Any, Callable[[], nn.Module]]  # its name, widths, and what makes the network


@torch.no_grad()
def measure(model: nn.Module, splits: Splits, images: ImageSet) -> float:
    """Return the accuracy (%). The network is where the splits are."""
    parts = (part.to(splits.mean.device) for part in images.images.split(250))
    found = torch.cat([model(normalise(part, splits)).argmax(1).cpu() for part in parts])
    return 100 * float((found == images.labels).float().mean())


def list_arms(
    dense: Dense, start: TrainedStart, inputs: Inputs, shares: list[float], seed: int
) -> Iterator[list[Arm]]:
    """Yield the arms of each share of the MACs."""
    arch, model, cost = dense.arch, dense.model, dense.arch.cost("macs")
    base, widths_of = np.array(arch.base_widths), read_widths(arch)
    norms = join_streams(arch.filter_norms(model), arch.streams)
    own = rank_by_fit(arch, model, inputs, Silent(), seed)

    def fit(ranking: UnitRanking, widths: Any) -> nn.Module:
        kept = ranking.pick_strongest(tuple(map(int, widths)))
        return fit_network(arch, model, kept, inputs, seed=seed).model

    def solve(law: Any, share: float) -> Any:
        curve = nsopt.uniform_curve(law)
        return nsopt.solve_widths(curve, cost, share * cost(base), max_width=base).widths

    for share in shares:
        uniform, least = (
            solve(base, share),
            own.per_cost(cost).widths_within(cost, share * cost(base)),
        )
        halfway = solve(np.sqrt(np.multiply(least, uniform)), share)
        fitted = [
            ("norms", norms, uniform),
            ("importance", start.ranking, uniform),
            ("fit", own, uniform),
            ("fit, own widths", own, least),
            ("fit, halfway", own, halfway),
        ]
        inherited = partial(start.build, tuple(map(int, uniform)))
        pruned, _ = prune_once(dense, False, "macs", share)
        theirs = widths_of(pruned)
        yield [
            ("inherited", uniform, inherited),
            *((arm, widths, partial(fit, ranking, widths)) for arm, ranking, widths in fitted),
            ("torch-pruning", theirs, partial(copy.deepcopy, pruned)),
            ("torch-pruning, fitted", theirs, partial(fit, own, theirs)),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.75, 0.5, 0.25])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--inputs", type=int, default=512)
    options = parser.parse_args()
    data = read_images(options)
    rows = Results(options.folder / "without_training.jsonl", ("network", "share", "seed", "arm"))
    for name in options.networks:
        dense = train_dense(name, data, options.folder)
        dense.model.to("cuda" if torch.cuda.is_available() else "cpu")
        dense = replace(dense, arch=trace(dense.model, make_example(dense).expand(2, -1, -1, -1)))
        start, measured_on, _ = rank_dense(dense)
        splits = measured_on.splits
        print(f"{name}: {measure(dense.model, splits, data.test):.2f} %")
        for seed in options.seeds:
            generator = torch.Generator().manual_seed(seed)
            taken = torch.randperm(len(splits.train), generator=generator)[: options.inputs]
            inputs = Inputs(normalise(splits.train.images[taken], splits), batch_size=64)
            found = list_arms(dense, start, inputs, options.shares, seed)
            for share, arms in zip(options.shares, found, strict=True):
                for arm, widths, make in arms:
                    key = {"network": name, "share": share, "seed": seed, "arm": arm}
                    if not rows.has(**key):
                        began = time.process_time()
                        small = make().eval()
                        seconds = time.process_time() - began
                        test = measure(small, splits, data.test)
                        rows.add(**key, widths=list(map(int, widths)), test=test, seconds=seconds)


if __name__ == "__main__":
    main()
