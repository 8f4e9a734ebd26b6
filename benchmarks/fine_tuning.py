"""Options of fine-tuning: each alone beside the defaults of the preset `compress`.

Trained networks are cut in proportion to shares of their MACs, inherit the most important filters,
and are fine-tuned with three seeds. Prints the mean validation and test accuracy of each variant.
It continues where it stopped.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import pandas as pd

import nsopt
from benchmarks.trained import Dense, Results, add_arguments, rank_dense, read_images, train_dense
from nsopt.pruning.inherited import inherit_network
from nsopt.session.presets import get_preset

_DEFAULTS = get_preset("compress").settings.training
_VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "lr 0.0003": {"lr": 0.0003},
    "lr 0.001": {"lr": 0.001},
    "lr 0.01": {"lr": 0.01},
    "sgd, lr 0.01": {"optimizer": "sgd", "lr": 0.01},
    "sgd, lr 0.02": {"optimizer": "sgd", "lr": 0.02},
    "batch 128": {"batch_size": 128},
    "no warm-up": {"warmup_epochs": None},
    "steps": {"schedule": None, "warmup_epochs": None},
    "no distillation": {"distillation": None},
    "distillation 0.9": {"distillation": 0.9},
    "no average": {"averaging": None},
    "average 0.999": {"averaging": 0.999},
}


def fine_tune(dense: Dense, share: float, options: argparse.Namespace, results: Results) -> None:
    """Add a row for each variant and seed."""
    epochs = options.epochs
    start, images, compute = rank_dense(dense)
    macs = dense.arch.cost("macs")
    law = nsopt.uniform_curve(dense.arch.base_widths)
    widths = nsopt.solve_widths(law, macs, share * macs(dense.arch.base_widths)).widths.tolist()
    inherited = inherit_network(start, widths, images, compute)
    for seed in range(options.seeds):
        for variant in options.variants:
            key = {
                "network": dense.name,
                "share": share,
                "variant": variant,
                "epochs": epochs,
                "seed": seed,
            }
            if results.has(**key):
                continue
            settings = _DEFAULTS.updated(epochs=epochs, seed=seed, **_VARIANTS[variant])
            outcome = nsopt.train(
                *(dense.arch, widths, dense.data, settings),
                start=inherited,
                teacher=dense.model if settings.distillation else None,
            )
            results.add(**key, validation=outcome.val_accuracy, test=outcome.test_accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25], help="of the MACs")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=list(_VARIANTS), choices=_VARIANTS)
    options = parser.parse_args()
    data = read_images(options)
    keys = ("network", "share", "variant", "epochs", "seed")
    results = Results(options.folder / "fine_tuning.jsonl", keys)
    for name in options.networks:
        dense = train_dense(name, data, options.folder)
        for share in options.shares:
            fine_tune(dense, share, options, results)
    frame = pd.DataFrame(results.rows)
    columns = ["validation", "test"]
    groups = frame.groupby(["network", "share", "variant", "epochs"], sort=False)
    print(groups[columns].agg(["mean", "std"]).to_string())


if __name__ == "__main__":
    main()
