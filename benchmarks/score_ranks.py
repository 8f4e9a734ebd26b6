"""Do scores rank widths as fine-tuning does?

Draws width vectors at one budget of MACs around uniform scaling, scores each (inherited filters, no
or a few steps of training, BatchNorm statistics of a few batches; or fitted without training to 512
images), fine-tunes each for some epochs, and prints Spearman's rank correlation of score and test
accuracy, and the seconds of a score, for each number of steps, the fit, and two scores: validation
accuracy, and agreement with the trained network. It prints the same of finished networks. It
continues where it stopped.
"""

import argparse
import sys
import time
from itertools import product
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, spearmanr

import nsopt
from benchmarks.trained import Dense, Results, add_arguments, rank_dense, read_images, train_dense
from nsopt.data.augmentation import normalise
from nsopt.progress import Silent
from nsopt.pruning.fitting.fit import fit_network
from nsopt.pruning.fitting.inputs import Inputs
from nsopt.pruning.fitting.rank import rank_by_fit
from nsopt.pruning.inherited import SCORE_STEPS, evaluate_inherited, inherit_network
from nsopt.scaling.law import PowerLaw
from nsopt.session.presets import get_preset
from nsopt.tasks.agreement import Agreement

_STEPS = (0, 10, SCORE_STEPS)
_FITTED, _FINE_TUNED = "fitted", "fine-tuned"
_WHEN = (*(f"{steps} steps" for steps in _STEPS), _FITTED, _FINE_TUNED)
_IMAGES = 512  # to which networks are fitted
_KINDS = ("accuracy", "agreement")
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


def to_numbers(found: Agreement) -> dict[str, float | None]:
    """Return the kinds of score."""
    return {"accuracy": found.score, "agreement": found.percentage}


def compare_ranks(dense: Dense, share: float, options: argparse.Namespace, rows: Results) -> None:
    """Add a row for each width vector."""
    start, images, compute = rank_dense(dense)
    training = get_preset("compress").settings.training
    settings = training.updated(epochs=options.epochs)
    compare = images.comparison(dense.model, compute)
    inputs = Inputs(normalise(images.splits.train.images[:_IMAGES], images.splits), batch_size=64)
    ranking = rank_by_fit(dense.arch, dense.model, inputs, Silent())
    for index, widths in enumerate(draw_widths(dense, share, options.count)):
        key = {"network": dense.name, "share": share, "index": index}
        if rows.has(**key):
            continue
        scores, seconds = dict[str, dict[str, float | None]](), dict[str, float]()
        for steps in _STEPS:
            began = time.process_time()
            found = evaluate_inherited(start, widths, images, compare, compute, steps)
            scores[f"{steps} steps"] = to_numbers(found)
            seconds[f"{steps} steps"] = time.process_time() - began
        began = time.process_time()
        kept = ranking.pick_strongest(widths)
        fitted = fit_network(dense.arch, dense.model, kept, inputs).model
        scores[_FITTED] = to_numbers(compare(fitted))
        seconds[_FITTED] = time.process_time() - began
        inherited = inherit_network(start, widths, images, compute)
        outcome = nsopt.train(
            *(dense.arch, widths, dense.data, settings), start=inherited, teacher=dense.model
        )
        scores[_FINE_TUNED] = to_numbers(compare(outcome.model.eval()))
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
        for when, kind in product(_WHEN, _KINDS):
            scores = [one[when][kind] for one in found["scores"]]
            band = bootstrap(
                (scores, found["test"]),
                lambda x, y: spearmanr(x, y).statistic,
                paired=True,
                vectorized=False,
                confidence_level=0.9,
                rng=0,
            ).confidence_interval
            print(
                f"{name} at {share:.0%} of MACs, {when}, {kind}: rank correlation "
                f"{spearmanr(scores, found['test']).statistic:.2f} "
                f"(90 %: {band.low:.2f} to {band.high:.2f}; n = {len(found)})"
            )
        seconds = pd.DataFrame(list(found["seconds"])).median()
        print(f"seconds a score:\n{seconds.round(1).to_string()}")


if __name__ == "__main__":
    main()
