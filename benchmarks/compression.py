"""A trained network made smaller: `nsopt.compress` beside its alternatives at equal MACs.

All arms start from the same dense network and have the same shares of its MACs:
    compressed       nsopt.compress, whose scores choose the widths
    inherited        uniform widths that inherit the most important filters
    torch-pruning    Torch-Pruning's widths and weights (global Taylor importance of groups)
    isomorphic       the same, compared within groups of equal shape alone
    scratch          uniform widths from scratch, with the epochs of fine-tuning
    scratch long     the same, with the epochs of the dense network added
The first four are fine-tuned in the same way, the last two trained as the dense network was. In the
end all networks are timed side by side; it prints test accuracy and milliseconds per batch of 100,
and writes `compression.csv`. It continues where it stopped.

Needs the optional dependency: pip install 'nsopt[benchmarks]'.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import pandas as pd
import torch
from torch.nn.functional import cross_entropy

import nsopt
from benchmarks.trained import (
    DENSE,
    Dense,
    Results,
    add_arguments,
    rank_dense,
    read_images,
    train_dense,
)
from nsopt.compute.placement import place_images
from nsopt.data.augmentation import TrainingBatches
from nsopt.latency.measure import measure_latencies
from nsopt.models.architecture import Architecture
from nsopt.models.tracing.trace import trace
from nsopt.pruning.inherited import inherit_network
from nsopt.study.presets import get_preset
from nsopt.training.evaluation import accuracy_on

_BATCHES = 5  # over which Torch-Pruning averages importance before a step
_STEPS = 100  # to 5 % of the channels
_REPEATS, _ROUNDS = 400, 20  # passes of each network in the end


def prune_with_torch_pruning(dense: Dense, share: float, isomorphic: bool) -> torch.nn.Module:
    """Return the dense network, pruned to a share of its MACs, with the gradients of a few batches
    as importance."""
    import torch_pruning  # noqa: PLC0415  (optional)

    model = copy.deepcopy(dense.model).train()
    splits = place_images(dense.data.split(DENSE.val_fraction), rank_dense(dense)[3])
    batches = TrainingBatches(splits, 128, seed=0)
    example = torch.zeros(1, *dense.arch.input_shape)
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        isomorphic=isomorphic,
        pruning_ratio=0.95,
        max_pruning_ratio=0.95,
        iterative_steps=_STEPS,
        ignored_layers=[last],
    )
    target = share * dense.arch.cost("macs")(dense.arch.base_widths)
    while torch_pruning.utils.count_ops_and_params(model, example)[0] > target:
        model.zero_grad()
        for _ in range(_BATCHES):
            images, labels = batches.next()
            cross_entropy(model(images), labels).backward()
        pruner.step()
    return model.eval()


def train_arm(dense: Dense, arm: str, share: float, epochs: int, seed: int) -> dict[str, Any]:
    """Train the network of an arm; return its accuracy, widths and MACs."""
    arch: Architecture = dense.arch
    macs = arch.cost("macs")
    law = nsopt.uniform_curve(arch.base_widths)
    fit = nsopt.solve_widths(law, macs, share * macs(arch.base_widths))
    widths: Sequence[int] = fit.widths.tolist()
    if arm.startswith("scratch"):
        length = epochs + DENSE.epochs * (arm == "scratch long")
        scratch = DENSE.updated(epochs=length, seed=seed)
        outcome = nsopt.train(arch, widths, dense.data, scratch)
    else:
        settings = get_preset("compress").settings.training.updated(epochs=epochs, seed=seed)
        if arm == "inherited":
            start, images, _, compute = rank_dense(dense)
            with compute.computing():
                model = inherit_network(start, widths, images, compute)
        else:
            model = prune_with_torch_pruning(dense, share, arm == "isomorphic")
            arch = trace(model, torch.zeros(2, *dense.arch.input_shape))
            widths = arch.base_widths
        outcome = nsopt.train(arch, widths, dense.data, settings, start=model, teacher=dense.model)
    return {
        "test": outcome.test_accuracy,
        "macs": int(arch.cost("macs")(widths)),
        "widths": list(widths),
    }


def compress(
    dense: Dense, share: float, epochs: int, candidates: int, seed: int, folder: Path
) -> dict[str, Any]:
    """Return what `nsopt.compress` makes of the dense network."""
    settings = get_preset("compress").settings
    settings = settings.updated(training=settings.training.updated(seed=seed))
    word = f"macs={share:.0%}"
    result = nsopt.compress(
        *(dense.model, dense.data, [word]),
        arch=dense.arch,
        epochs=epochs,
        candidates=candidates,
        settings=settings,
        out=folder / f"{dense.name}-{share}-{seed}",
    )[word]
    return {
        "test": result.test_accuracy,
        "macs": result.cost["macs"],
        "widths": list(result.widths),
        "chosen": result.method,
        "score": result.score,
    }


def describe(dense: Dense) -> dict[str, Any]:
    """Return the row of a whole network."""
    _, _, splits, compute = rank_dense(dense)
    widths = dense.arch.base_widths
    return {
        "network": dense.name,
        "share": 1.0,
        "arm": "dense",
        "seed": 0,
        "test": accuracy_on(splits.test, dense.model, splits, compute),
        "macs": int(dense.arch.cost("macs")(widths)),
        "widths": list(widths),
    }


def with_milliseconds(frame: pd.DataFrame, wholes: Sequence[Dense]) -> pd.DataFrame:
    """Time the networks of all rows side by side; return the rows with milliseconds per batch.

    They are missing where Torch-Pruning ties other layers than the architecture does.
    """
    archs = {dense.name: dense.arch for dense in wholes}
    frame = frame[frame["network"].isin(list(archs))]
    keys = list(zip(frame["network"], frame["widths"].map(tuple), strict=True))
    fits = {name: len(arch.base_widths) for name, arch in archs.items()}
    distinct = [key for key in dict.fromkeys(keys) if len(key[1]) == fits[key[0]]]
    models = [archs[name].build(widths) for name, widths in distinct]
    shape = wholes[0].arch.input_shape
    found = measure_latencies(models, shape, repeats=_REPEATS, rounds=_ROUNDS)
    ms = {key: latency.median_ms for key, latency in zip(distinct, found, strict=True)}
    return frame.assign(ms=[ms.get(key) for key in keys])


_ARMS = ("compressed", "inherited", "torch-pruning", "isomorphic", "scratch", "scratch long")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25], help="of the MACs")
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=_ARMS, choices=_ARMS)
    options = parser.parse_args()
    data = read_images(options)
    results = Results(options.folder / "compression.jsonl", ("network", "share", "arm", "seed"))
    wholes = [train_dense(name, data, options.folder) for name in options.networks]
    for dense in wholes:
        for seed in range(options.seeds):
            for share in options.shares:
                for arm in options.arms:
                    key = {"network": dense.name, "share": share, "arm": arm, "seed": seed}
                    if results.has(**key):
                        continue
                    if arm == "compressed":
                        found = compress(
                            *(dense, share, options.epochs, options.candidates, seed),
                            options.folder,
                        )
                    else:
                        found = train_arm(dense, arm, share, options.epochs, seed)
                    results.add(**key, **found)
    rows = [*map(describe, wholes), *results.rows]
    frame = with_milliseconds(pd.DataFrame(rows), wholes)
    frame.to_csv(options.folder / "compression.csv", index=False)
    columns = ["test", "macs", "ms"]
    table = frame.groupby(["network", "share", "arm"], sort=False)[columns].agg(["mean", "std"])
    print(table.to_string())


if __name__ == "__main__":
    main()
