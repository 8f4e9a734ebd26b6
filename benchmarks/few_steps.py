"""Fine-tuning with few steps: what `nsopt.compress` begins with, and who chooses its widths.

    search    searched widths, inherited weights: what more steps get
    begin     searched widths, fitted weights
    fits      widths and weights by the fit: what fewer steps get
The same trained network at shares of its MACs. Prints the test accuracies of the chosen widths and
of the uniform ones. It continues where it stopped.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import pandas as pd

import nsopt
from benchmarks.trained import Dense, Results, add_arguments, read_images, train_dense
from nsopt.session.presets import get_preset, override

_ARMS = {"search": 0.0, "begin": 0.4, "fits": 1.0}  # `least_steps`, as a share of the steps


def compress(
    dense: Dense, arm: str, seed: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row for each network of a call of `nsopt.compress`."""
    preset = get_preset("compress").settings
    images = len(dense.data.split(preset.training.val_fraction).train)
    steps = options.epochs * -(-images // preset.training.batch_size)
    training = {"least_steps": round(_ARMS[arm] * steps) or None, "seed": seed}
    result = nsopt.compress(
        *(dense.model, dense.data, [f"macs={share:.0%}" for share in options.shares]),
        arch=dense.arch,
        epochs=options.epochs,
        settings=override(preset, {"search": {"seed": seed}, "training": training}),
    )
    outcomes = result.results.outcomes
    return [
        {
            "macs": int(row["macs"]),
            "method": row["method"],
            "validation": row["score"],
            "test": row["test_score"],
            "widths": list(row["widths"]),
        }
        for _, row in outcomes.iterrows()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--arms", nargs="+", default=list(_ARMS), choices=_ARMS)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25], help="of the MACs")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    data = read_images(options)
    results = Results(options.folder / "few_steps.jsonl", ("network", "arm", "epochs", "seed"))
    for name in options.networks:
        dense = train_dense(name, data, options.folder)
        for seed in options.seeds:
            for arm in options.arms:
                about = {"network": name, "arm": arm, "epochs": options.epochs, "seed": seed}
                if not results.has(**about):
                    for row in compress(dense, arm, seed, options):
                        results.add(**about, **row)
    frame = pd.DataFrame(results.rows)
    groups = frame.groupby(["network", "epochs", "macs", "arm", "method"], sort=False)
    print(groups["test"].agg(["count", "mean", "std"]).to_string())


if __name__ == "__main__":
    main()
