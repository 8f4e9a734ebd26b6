"""How good are smaller networks that are fitted without training (`nsopt.fit`)?

Takes a trained network and some hundred inputs without labels. At each share of its MACs it prints
the test accuracy of uniform widths that inherit, of the same widths fitted, with filters chosen by
norms, by importance (which needs labels) and by what the fit loses, of the widths that lose least
per cost, and of those halfway to uniform ones. Every seed takes other inputs.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
import torch
from torch import Tensor, nn

import nsopt
from benchmarks.trained import Results, add_arguments, rank_dense, read_images, train_dense
from nsopt.data.images import ImageSet, Splits
from nsopt.progress import Silent
from nsopt.pruning.fitting.fit import fit_network
from nsopt.pruning.fitting.inputs import Inputs
from nsopt.pruning.fitting.rank import rank_by_fit
from nsopt.pruning.fitting.smaller import widths_by_fit
from nsopt.pruning.ranking import join_streams


def normalise(splits: Splits, images: Tensor) -> Tensor:
    mean, std = (own.float().view(-1, 1, 1) for own in (splits.mean, splits.std))
    return (images.float() - mean) / std


@torch.no_grad()
def measure(model: nn.Module, splits: Splits, images: ImageSet) -> float:
    """Return the accuracy (%)."""
    parts = normalise(splits, images.images).split(250)
    found = torch.cat([model(part).argmax(1) for part in parts])
    return 100 * float((found == images.labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.75, 0.5, 0.25])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--inputs", type=int, default=512)
    options = parser.parse_args()
    data = read_images(options)
    rows = Results(options.folder / "without_training.jsonl", ("network", "share", "seed", "arm"))
    for name in options.networks:
        dense = train_dense(name, data, options.folder)
        start, images, _ = rank_dense(dense)
        splits = images.splits
        arch, model = dense.arch, dense.model
        cost, base = arch.cost("macs"), np.array(arch.base_widths)
        norms = join_streams(arch.filter_norms(model), arch.streams)
        print(f"{name}: {measure(model, splits, data.test):.2f} %")
        for seed in range(options.seeds):
            generator = torch.Generator().manual_seed(seed)
            taken = torch.randperm(len(splits.train), generator=generator)[: options.inputs]
            inputs = Inputs(normalise(splits, splits.train.images[taken]), batch_size=64)
            own = rank_by_fit(arch, model, inputs, Silent(), seed)
            for share in options.shares:
                budget = share * cost(base)
                curve = nsopt.uniform_curve(base)
                uniform = nsopt.solve_widths(curve, cost, budget, max_width=base).widths
                least = widths_by_fit(arch, own, cost, budget)
                mixed = nsopt.uniform_curve(np.sqrt(np.multiply(least, uniform)))
                halfway = nsopt.solve_widths(mixed, cost, budget, max_width=base).widths
                arms = {
                    "inherited": (start.ranking, uniform, False),
                    "norms": (norms, uniform, True),
                    "importance": (start.ranking, uniform, True),
                    "fit": (own, uniform, True),
                    "fit, own widths": (own, least, True),
                    "fit, halfway": (own, halfway, True),
                }
                for arm, (ranking, widths, is_fitted) in arms.items():
                    key = {"network": name, "share": share, "seed": seed, "arm": arm}
                    if rows.has(**key):
                        continue
                    kept = ranking.pick_strongest(tuple(map(int, widths)))
                    began = time.process_time()
                    small = arch.inherit(model, kept, [len(k) for k in kept]).eval()
                    if is_fitted:
                        small = fit_network(arch, model, kept, inputs, seed=seed).model
                    seconds = time.process_time() - began
                    found = measure(small, splits, data.test)
                    rows.add(**key, widths=list(map(int, widths)), test=found, seconds=seconds)


if __name__ == "__main__":
    main()
