"""Do scores rank widths as fine-tuning does?

Draws width vectors at one budget of MACs around uniform scaling, scores each (inherited filters, no
or a few steps of training, BatchNorm statistics of a few batches), fine-tunes each for some epochs,
and prints Spearman's rank correlation of score and test accuracy, and the seconds of a score, for
each number of steps and each kind of score:
    accuracy         of the validation images
    loss             their cross-entropy
    divergence       of the outputs from those of the trained network, on the validation images
    more divergence  the same, on as many training images again as `--more` says
It continues where it stopped.
"""

import argparse
import sys
import time
from itertools import product
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap, spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

import nsopt
from benchmarks.trained import Dense, Results, add_arguments, rank_dense, read_images, train_dense
from nsopt.compute.device import Compute
from nsopt.data.augmentation import normalise
from nsopt.data.images import ImageSet, Splits
from nsopt.models.layout import inputs_for
from nsopt.pruning.inherited import SCORE_STEPS, inherit_network, score
from nsopt.scaling.law import PowerLaw
from nsopt.study.presets import get_preset

_STEPS = (0, 10, SCORE_STEPS)
_KINDS = ("accuracy", "loss", "divergence", "more divergence")
_BATCH = 500
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


class Measurement:
    """Measures what could be a score, higher is better; the outputs of the teacher are kept."""

    def __init__(self, dense: Dense, splits: Splits, compute: Compute, more: int) -> None:
        self._splits, self._compute = splits, compute
        self._images = splits.validation
        self._more = splits.train.take(list(range(more)))
        self._teacher = self._logits(dense.model, self._images)
        self._teacher_more = self._logits(dense.model, self._more)
        self.found: dict[str, float] = {}

    def _logits(self, model: nn.Module, images: ImageSet) -> Tensor:
        outputs = []
        for first in range(0, len(images), _BATCH):
            batch, _ = images.batch(slice(first, first + _BATCH), self._compute.device)
            with torch.no_grad(), self._compute.autocast():
                outputs.append(model(inputs_for(model, normalise(batch, self._splits))).float())
        return torch.cat(outputs)

    def __call__(self, model: nn.Module) -> float:
        """Measure a network in evaluation mode; return its accuracy, and keep all kinds."""
        logits, labels = self._logits(model, self._images), self._images.labels
        divergence = -_divergence(logits, self._teacher)
        more = -_divergence(self._logits(model, self._more), self._teacher_more)
        share = len(self._more) / (len(self._more) + len(logits))
        self.found = {
            "accuracy": 100 * (logits.argmax(1) == labels).float().mean().item(),
            "loss": -cross_entropy(logits, labels).item(),
            "divergence": divergence,
            "more divergence": share * more + (1 - share) * divergence,
        }
        return self.found["accuracy"]


def _divergence(logits: Tensor, teacher: Tensor) -> float:
    """Return the mean Kullback-Leibler divergence of a network's outputs from its teacher's."""
    student, target = logits.log_softmax(1), teacher.log_softmax(1)
    return kl_div(student, target, reduction="batchmean", log_target=True).item()


def compare_ranks(dense: Dense, share: float, options: argparse.Namespace, rows: Results) -> None:
    """Add a row for each width vector."""
    start, images, splits, compute = rank_dense(dense)
    training = get_preset("compress").settings.training
    settings = training.updated(epochs=options.epochs, batch_size=64)

    measurement = Measurement(dense, splits, compute, options.more)
    for index, widths in enumerate(draw_widths(dense, share, options.count)):
        key = {"network": dense.name, "share": share, "index": index}
        if rows.has(**key):
            continue
        scores, seconds = {}, {}
        for steps in _STEPS:
            began = time.process_time()
            score(start, widths, images, measurement, compute, steps)
            scores[str(steps)] = measurement.found
            seconds[str(steps)] = time.process_time() - began
        with compute.computing():
            inherited = inherit_network(start, widths, images, compute)
        outcome = nsopt.train(
            *(dense.arch, widths, dense.data, settings), start=inherited, teacher=dense.model
        )
        measurement(outcome.model.eval())
        scores["after"] = measurement.found
        tuned = {"validation": outcome.val_accuracy, "test": outcome.test_accuracy}
        rows.add(**key, widths=widths, scores=scores, seconds=seconds, **tuned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25], help="of the MACs")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--more", type=int, default=4000, help="training images of a score")
    parser.add_argument("--count", type=int, default=30, help="width vectors for each share")
    options = parser.parse_args()
    data = read_images(options)
    rows = Results(options.folder / "score_ranks.jsonl", ("network", "share", "index"))
    for name in options.networks:
        dense = train_dense(name, data, options.folder)
        for share in options.shares:
            compare_ranks(dense, share, options, rows)
    for (name, share), found in pd.DataFrame(rows.rows).groupby(["network", "share"], sort=False):
        for steps, kind in product(map(str, _STEPS), _KINDS):
            scores = [one[steps][kind] for one in found["scores"]]
            band = bootstrap(
                (scores, found["test"]),
                lambda x, y: spearmanr(x, y).statistic,
                paired=True,
                vectorized=False,
                confidence_level=0.9,
                rng=0,
            ).confidence_interval
            print(
                f"{name} at {share:.0%} of MACs, {steps} steps, {kind}: rank correlation "
                f"{spearmanr(scores, found['test']).statistic:.2f} "
                f"(90 %: {band.low:.2f} to {band.high:.2f}; n = {len(found)}), "
                f"{np.median([one[steps] for one in found['seconds']]):.1f} s for all kinds"
            )


if __name__ == "__main__":
    main()
