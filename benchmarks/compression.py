"""A trained network made smaller: `nsopt.compress` beside its alternatives at equal cost.

All arms start from the same dense network and have the same shares of its MACs, or of its
milliseconds as measured (PyTorch, batches of 100):
    compressed       nsopt.compress
    uniform          uniform widths, fitted to the dense network
    torch-pruning    Torch-Pruning's widths and weights (global Taylor importance of groups)
    isomorphic       the same, compared within groups of equal shape alone
    scratch          uniform widths from scratch, with the epochs of fine-tuning
    scratch long     the same, with the epochs of the dense network added
The first four are fine-tuned in the same way, the last two trained as the dense network was. In the
end all networks are timed side by side; it prints test accuracy and milliseconds per batch of 100,
and writes `compression.csv`. It continues where it stopped.

Needs one package more: pip install torch-pruning==1.6.1.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import nsopt
from benchmarks.common import time_in_turns
from benchmarks.trained import (
    DENSE,
    Dense,
    Results,
    add_arguments,
    rank_dense,
    read_images,
    train_dense,
)
from nsopt.compute.device import resolve_compute
from nsopt.data.augmentation import TrainingBatches
from nsopt.models.architecture import Architecture
from nsopt.models.trace import trace
from nsopt.session.presets import get_preset
from nsopt.tasks.supervise import place_images
from nsopt.tasks.supervision import evaluate

ISOMORPHIC = {"torch-pruning": False, "isomorphic": True}  # the arms of Torch-Pruning
_BATCHES = 5  # over which Torch-Pruning averages importance before a step
_STEPS = 100  # to 5 % of the channels
_FITTED = 512  # images
_ROUNDS = 40  # of all networks in the end


def milliseconds(dense: Dense, models: Sequence[nn.Module], rounds: int = 10) -> list[float]:
    """Time networks in turns."""
    return time_in_turns(models, dense.arch.input_shape, rounds)


def prune_with_torch_pruning(
    dense: Dense, isomorphic: bool, goes_on: Callable[[nn.Module, int], bool]
) -> tuple[nn.Module, int]:
    """Return the dense network, pruned as long as `goes_on(network, steps)`, and the steps.

    The gradients of a few batches are the importance.
    """
    import torch_pruning  # noqa: PLC0415  (optional)

    model = copy.deepcopy(dense.model).train()
    splits = place_images(dense.data.split(DENSE.val_fraction), resolve_compute("auto", "auto"))
    batches = TrainingBatches(splits, 128, seed=0)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        make_example(dense),
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        isomorphic=isomorphic,
        pruning_ratio=0.95,
        max_pruning_ratio=0.95,
        iterative_steps=_STEPS,
        ignored_layers=[last],
    )
    steps = 0
    while goes_on(model, steps):
        model.zero_grad()
        for _ in range(_BATCHES):
            images, labels = (part.to(make_example(dense).device) for part in batches.next())
            with torch.backends.mkldnn.flags(enabled=not _has_strided_products(model)):
                cross_entropy(model(images), labels).backward()
        pruner.step()
        steps += 1
    return model.eval(), steps


def make_example(dense: Dense) -> Tensor:
    """Return an image for the dense network, on its device."""
    return next(dense.model.parameters()).new_zeros(1, *dense.arch.input_shape)


def _has_strided_products(model: nn.Module) -> bool:
    """Return whether there are 1x1 convolutions with a stride (oneDNN 6035: beyond its memory)."""
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return any(each.kernel_size == (1, 1) and each.stride != (1, 1) for each in found)


def costs_more(dense: Dense, metric: str, share: float) -> Callable[[nn.Module, int], bool]:
    """Return whether a network costs more than a share of what the dense one does."""
    if metric == "latency":

        def is_slow(model: nn.Module, steps: int) -> bool:
            both = [copy.deepcopy(model).eval(), dense.model]
            part, whole = milliseconds(dense, both, rounds=20)
            return part > share * whole

        return is_slow
    from torch_pruning.utils import count_ops_and_params  # noqa: PLC0415  (optional)

    example = make_example(dense)
    target = share * dense.arch.cost("macs")(dense.arch.base_widths)
    return lambda model, _: count_ops_and_params(model, example)[0] > target


@cache
def prune_once(dense: Dense, isomorphic: bool, metric: str, share: float) -> tuple[nn.Module, int]:
    """Return the network of Torch-Pruning at a share of the cost, and its steps."""
    return prune_with_torch_pruning(dense, isomorphic, costs_more(dense, metric, share))


@cache
def uniform_widths(dense: Dense, metric: str, share: float) -> tuple[int, ...]:
    """Return the widths of uniform scaling at a share of the cost."""
    base, law = dense.arch.base_widths, nsopt.uniform_curve(dense.arch.base_widths)
    if metric == "macs":
        macs = dense.arch.cost("macs")
        return tuple(nsopt.solve_widths(law, macs, share * macs(base)).widths.tolist())
    arch = nsopt.with_latency(dense.arch)
    return nsopt.solve_measured_widths(arch, law, f"{share:.0%}", max_width=np.array(base)).widths


def train_arm(
    dense: Dense, arm: str, metric: str, share: float, epochs: int, seed: int
) -> dict[str, Any]:
    """Train the network of an arm; return its accuracy, widths and MACs."""
    arch: Architecture = dense.arch
    steps = None
    if arm in ISOMORPHIC:
        model, steps = prune_once(dense, ISOMORPHIC[arm], metric, share)
        arch = trace(model, torch.zeros(2, *dense.arch.input_shape))
        widths = arch.base_widths
        settings = get_preset("compress").settings.training.updated(epochs=epochs, seed=seed)
        outcome = nsopt.train(arch, widths, dense.data, settings, start=model, teacher=dense.model)
    elif arm == "uniform":
        widths = uniform_widths(dense, metric, share)
        settings = get_preset("compress").settings.training.updated(epochs=epochs, seed=seed)
        start = fit_uniform(dense, widths)
        outcome = nsopt.train(arch, widths, dense.data, settings, start=start, teacher=dense.model)
    else:
        widths = uniform_widths(dense, metric, share)
        length = epochs + DENSE.epochs * (arm == "scratch long")
        scratch = DENSE.updated(epochs=length, seed=seed)
        outcome = nsopt.train(arch, widths, dense.data, scratch)
    return {
        "test": outcome.test_accuracy,
        "macs": int(arch.cost("macs")(widths)),
        "widths": list(widths),
        "steps": steps,
    }


@cache
def fit_uniform(dense: Dense, widths: tuple[int, ...]) -> nn.Module:
    splits = place_images(dense.data.split(DENSE.val_fraction), resolve_compute("auto", "auto"))
    images, _ = TrainingBatches(splits, _FITTED, seed=0).next()
    return nsopt.fit(dense.model, widths, images.cpu(), dense.arch)


def compress(
    dense: Dense, word: str, epochs: int, seeds: int, folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield what `nsopt.compress` makes of the dense network, for each seed of fine-tuning.

    Of the one or two networks that it trains at each seed, the validation chooses.
    """
    out = folder / f"{dense.name}-{word}-{epochs}"
    result = nsopt.compress(
        *(dense.model, dense.data, [word]),
        arch=dense.arch,
        epochs=epochs,
        settings=get_preset("compress").settings.updated(seeds=seeds),
        out=out,
    )
    trained = result.results.outcomes
    trained = trained[trained["method"] != "dense"]
    for seed, rows in trained.groupby("seed"):
        row = rows.loc[rows["score"].idxmax()]
        yield {
            "arm": "compressed",
            "seed": seed,
            "test": row["test_score"],
            "validation": row["score"],
            "macs": int(row["macs"]),
            "widths": list(row["widths"]),
            "chosen": row["method"],
            "trained": rows.set_index("method")["test_score"].to_dict(),
            "agreement": {c.name: c.agreement for _, c in result.results.candidates},
        }


def describe(dense: Dense, metric: str) -> dict[str, Any]:
    """Return the row of a whole network."""
    _, images, compute = rank_dense(dense)
    widths = dense.arch.base_widths
    return {
        "network": dense.name,
        "metric": metric,
        "share": 1.0,
        "arm": "dense",
        "seed": 0,
        "test": evaluate(images.test(compute), dense.model),
        "macs": int(dense.arch.cost("macs")(widths)),
        "widths": list(widths),
    }


def rebuild(dense: Dense, row: dict[str, Any]) -> nn.Module:
    """Return a network of the widths of a row, with any weights."""
    if row["arm"] not in ISOMORPHIC:
        return dense.arch.build(row["widths"])
    last = row["steps"]
    model, _ = prune_with_torch_pruning(dense, ISOMORPHIC[row["arm"]], lambda _, n: n < last)
    return model


def with_milliseconds(rows: Sequence[dict[str, Any]], wholes: Sequence[Dense]) -> pd.DataFrame:
    """Time the networks of all rows side by side; return the rows with milliseconds per batch."""
    dense = {each.name: each for each in wholes}
    rows = [row for row in rows if row["network"] in dense]
    keys = [(row["network"], row["arm"] in ISOMORPHIC, *row["widths"]) for row in rows]
    distinct = dict(zip(keys, rows, strict=True))
    models = [rebuild(dense[row["network"]], row) for row in distinct.values()]
    found = milliseconds(wholes[0], models, _ROUNDS)
    ms = dict(zip(distinct, found, strict=True))
    return pd.DataFrame(rows).assign(ms=[ms[key] for key in keys])


_ARMS = ("compressed", "uniform", "torch-pruning", "isomorphic", "scratch", "scratch long")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--metric", default="macs", choices=("macs", "latency"))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25], help="of the cost")
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=_ARMS, choices=_ARMS)
    options = parser.parse_args()
    data = read_images(options)
    keys = "network", "metric", "share", "arm", "seed"
    results = Results(options.folder / "compression.jsonl", keys)
    wholes = [train_dense(name, data, options.folder) for name in options.networks]
    for dense in wholes:
        for share in options.shares:
            about = {"network": dense.name, "metric": options.metric, "share": share}
            if "compressed" in options.arms and not results.has(**about, arm="compressed", seed=0):
                word = f"{options.metric}={share:.0%}"
                for row in compress(dense, word, options.epochs, options.seeds, options.folder):
                    results.add(**about, **row)
            for arm in [arm for arm in options.arms if arm != "compressed"]:
                for seed in range(options.seeds):
                    if not results.has(**about, arm=arm, seed=seed):
                        cost = options.metric, share
                        found = train_arm(dense, arm, *cost, epochs=options.epochs, seed=seed)
                        results.add(**about, arm=arm, seed=seed, **found)
    frame = with_milliseconds(
        [*(describe(dense, options.metric) for dense in wholes), *results.rows], wholes
    )
    frame.to_csv(options.folder / "compression.csv", index=False)
    table = frame.groupby(["network", "metric", "share", "arm"], sort=False)[
        ["test", "macs", "ms"]
    ].agg(["mean", "std"])
    print(table.to_string())


if __name__ == "__main__":
    main()
