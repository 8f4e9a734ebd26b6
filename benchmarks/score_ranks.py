"""Do scores rank widths as fine-tuning does?

Draws width vectors at one budget of MACs around uniform scaling, scores each (inherited filters, no
or a few steps of training, BatchNorm statistics of a few batches, validation accuracy), fine-tunes
each for some epochs, and prints Spearman's rank correlation of score and result, and the seconds of
a score, for each number of steps. It continues where it stopped.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, spearmanr
from torch import nn

import nsopt
from benchmarks.trained import Dense, Results, add_arguments, rank_dense, read_images, train_dense
from nsopt.pruning.inherited import SCORE_STEPS, inherit_network, score
from nsopt.scaling.law import PowerLaw
from nsopt.study.presets import get_preset
from nsopt.training.evaluation import accuracy_on

_STEPS = (0, 10, SCORE_STEPS)
_SPREAD = 0.6  # standard deviation of the logarithm of a layer's share of its base width


def draw_widths(dense: Dense, share: float, count: int) -> list[tuple[int, ...]]:
    """Return widths of one cost: uniform ones, then random ones, none wider than the network."""
    base, random = np.array(dense.arch.base_widths), np.random.default_rng(0)
    macs = dense.arch.cost("macs")
    drawn = []
    for index in range(count):
        shape = base * np.exp(random.normal(0, _SPREAD, base.size) * bool(index))
        law = PowerLaw(shape, np.ones(base.size), np.ones(base.size))
        fit = nsopt.solve_widths(law, macs, share * macs(base), max_width=base)
        drawn.append(tuple(fit.widths.tolist()))
    return drawn


def compare_ranks(dense: Dense, share: float, options: argparse.Namespace, rows: Results) -> None:
    """Add a row for each width vector."""
    start, images, splits, compute = rank_dense(dense)
    training = get_preset("compress").settings.training
    settings = training.updated(epochs=options.epochs, batch_size=64)

    def validate(model: nn.Module) -> float:
        return accuracy_on(splits.validation, model, splits, compute)

    for index, widths in enumerate(draw_widths(dense, share, options.count)):
        key = {"network": dense.name, "share": share, "index": index}
        if rows.has(**key):
            continue
        scores, seconds = {}, {}
        for steps in _STEPS:
            began = time.process_time()
            scores[str(steps)] = score(start, widths, images, validate, compute, steps)
            seconds[str(steps)] = time.process_time() - began
        with compute.computing():
            inherited = inherit_network(start, widths, images, compute)
        outcome = nsopt.train(
            *(dense.arch, widths, dense.data, settings), start=inherited, teacher=dense.model
        )
        tuned = {"validation": outcome.val_accuracy, "test": outcome.test_accuracy}
        rows.add(**key, widths=widths, scores=scores, seconds=seconds, **tuned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25], help="of the MACs")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--count", type=int, default=30, help="width vectors for each share")
    options = parser.parse_args()
    data = read_images(options)
    rows = Results(options.folder / "score_ranks.jsonl", ("network", "share", "index"))
    for name in options.networks:
        dense = train_dense(name, data, options.folder)
        for share in options.shares:
            compare_ranks(dense, share, options, rows)
    for (name, share), found in pd.DataFrame(rows.rows).groupby(["network", "share"], sort=False):
        for steps in map(str, _STEPS):
            scores = [one[steps] for one in found["scores"]]
            band = bootstrap(
                (scores, found["validation"]),
                lambda x, y: spearmanr(x, y).statistic,
                paired=True,
                vectorized=False,
                confidence_level=0.9,
                rng=0,
            ).confidence_interval
            print(
                f"{name} at {share:.0%} of MACs, {steps} steps: rank correlation "
                f"{spearmanr(scores, found['validation']).statistic:.2f} "
                f"(90 %: {band.low:.2f} to {band.high:.2f}; n = {len(found)}), "
                f"{np.median([one[steps] for one in found['seconds']]):.1f} s a score"
            )


if __name__ == "__main__":
    main()
