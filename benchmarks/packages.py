"""Check nsopt on networks of the packages that people use, beside Torch-Pruning.

A row of `packages.csv` for every network, with random weights and small inputs:
- widths: how many can change,
- share: of the parameters, those in tensors with a width that can change,
- exact: in float64 a pruned network computes what the whole one does with the removed units at
  zero, to 1e-9; units whose removal is inexact stay,
- trains: a step of training of the network at half of all widths gives finite gradients,
- exports: so that network computes the same after `torch.export`, or else after `torch.jit.trace`,
- torch_pruning: Torch-Pruning 1.6.1 prunes 40 % of all channels at random, and the network runs,
- trace_s: seconds of processor time of the trace, on one thread.

A cell has `ok`, the way of the export, or the error. Each network runs in a process of its own.
Networks with results are not run again; delete a row to run it.

Needs more packages: pip install 'nsopt[timm]' diffusers segmentation-models-pytorch spandrel
torch-geometric torch-pruning==1.6.1 torchaudio transformers ultralytics.
"""

import argparse
import csv
import multiprocessing
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import nsopt
from benchmarks.package_networks import NETWORKS
from benchmarks.unseen_networks import share_that_changes
from nsopt.inputs import call_network
from nsopt.models.architecture import Architecture
from nsopt.tracing.originals import copy_model
from tests.tracing.checks import choose_units, randomise, with_zeros
from tests.tracing.test_networks_detectors import DETECTORS

TABLE = Path(__file__).with_suffix(".csv")
COLUMNS = ("network", "widths", "share", "exact", "trains", "exports", "torch_pruning", "trace_s")
_LIMITS_S, _LIMIT_BYTES = (900, 75), 12 * 2**30  # of nsopt, of Torch-Pruning


def outcome(check: Callable[[], object]) -> str:
    """Return `ok`, what the check returns, or the first line of its error."""
    try:
        return str(check() or "ok")
    except Exception as error:  # other libraries and networks may raise anything
        first = re.sub(r"\x1b\[\d+m", "", str(error)).strip().partition("\n")[0]  # no colours
        return f"{type(error).__name__}: {first}"[:100]


def is_detector(word: str) -> bool:
    return word.partition(":")[2] in DETECTORS


def convert(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tree_map_only(Tensor, lambda t: change(t) if t.is_floating_point() else t, inputs)


def compute(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return all tensors with fractions in what a network returns."""
    leaves = tree_leaves(call_network(model, inputs))
    return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]


def check_exact(arch: Architecture, model: nn.Module, inputs: Any) -> None:
    kept = choose_units(arch, seed=0, inexact=False)
    smaller = arch.prune(model, [indices.tolist() for indices in kept])
    doubles = convert(inputs, Tensor.double)
    with torch.no_grad():
        expected, found = (
            compute(copy_model(network).double().eval(), doubles)
            for network in (with_zeros(arch, model, kept), smaller)
        )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def check_training(word: str, model: nn.Module, inputs: Any) -> None:
    model.train()
    if is_detector(word):
        box = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
        box["masks"] = torch.ones(1, 96, 96, dtype=torch.uint8)
        box["keypoints"] = torch.tensor([[[30.0, 30.0, 1.0]] * 17])
        results = list(model(list(inputs), [dict(box), dict(box)]).values())
    else:
        results = compute(model, inputs)
    sum(result.square().mean() for result in results if result.requires_grad).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


class Tensors(nn.Module):
    """Returns a tuple of all tensors that a network returns: TorchScript takes nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(each for each in tree_leaves(self.model(*inputs)) if isinstance(each, Tensor))


def check_export(model: nn.Module, inputs: Any) -> str:
    model.eval()
    args = (inputs,) if isinstance(inputs, Tensor) else inputs
    args, kwargs = ((), args) if isinstance(args, dict) else (args, {})
    with torch.no_grad():
        expected = compute(model, inputs)
        try:
            exported: Any = torch.export.export(model, args, kwargs).module()
            found = [t for t in tree_leaves(exported(*args, **kwargs)) if isinstance(t, Tensor)]
            way = "torch.export"
        except Exception:
            if kwargs:
                raise
            found = tree_leaves(torch.jit.trace(Tensors(model), args, check_trace=False)(*args))
            way = "torch.jit"
    found = [t for t in found if t.is_floating_point()]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    return way


def check_torch_pruning(model: nn.Module, inputs: Any) -> None:
    pruning = import_module("torch_pruning")
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    last = linear[-1:] or [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1:]
    before = sum(p.numel() for p in model.parameters())
    pruning.pruner.BasePruner(
        model.eval(),
        inputs,
        importance=pruning.importance.RandomImportance(),
        pruning_ratio=0.4,
        ignored_layers=last,
    ).step()
    call_network(model, inputs)
    assert sum(p.numel() for p in model.parameters()) < before, "removes nothing"


def make_row(word: str) -> dict[str, Any]:
    """Check a network; return its row of the table, without Torch-Pruning."""
    torch.manual_seed(0)
    model, inputs = NETWORKS[word]()
    start = time.process_time()
    arch = nsopt.trace(model, inputs, training=not is_detector(word))
    row: dict[str, Any] = {"trace_s": round(time.process_time() - start, 1)}
    row |= {"widths": len(arch.base_widths), "share": round(share_that_changes(arch), 2)}
    half = [range((width + 1) // 2) for width in arch.base_widths]
    randomise(model)
    row["exact"] = outcome(lambda: check_exact(arch, model, inputs))
    torch.manual_seed(0)
    smaller = arch.prune(NETWORKS[word]()[0], half)
    row["exports"] = outcome(lambda: check_export(smaller, inputs))
    row["trains"] = outcome(lambda: check_training(word, smaller, inputs))
    return row


def run_apart(word: str) -> dict[str, Any]:
    """Return the row of a network, made in a copy of this process."""
    apart = multiprocessing.get_context("fork")
    receiver, sender = apart.Pipe(duplex=False)

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES, _LIMIT_BYTES))
        try:
            sender.send(make_row(word))
        except Exception as error:
            sender.send({"exact": f"{type(error).__name__}: {error}"[:100]})
        found = outcome(lambda: check_torch_pruning(*NETWORKS[word]()))
        sender.send({"torch_pruning": found})

    process = apart.Process(target=run)
    process.start()
    sender.close()
    row: dict[str, Any] = {}
    try:
        for limit, column in zip(_LIMITS_S, ("exact", "torch_pruning"), strict=True):
            if not receiver.poll(limit):
                return row | {column: f"no end in {limit} s"}
            row |= receiver.recv()
    except EOFError:
        return row | {column: "the process died"}
    finally:
        process.kill()
        process.join()
    return row


def read_table() -> dict[str, dict[str, str]]:
    """Return the rows of the table, by network."""
    with TABLE.open(newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def format_summary(rows: dict[str, dict[str, str]]) -> str:
    """Return the table of the page docs/packages.md: how many networks of each package pass."""
    lines = ["| package | networks | share | exact | trains | torch.export | Torch-Pruning |"]
    lines.append("|---|---|---|---|---|---|---|")
    for package, group in groupby(rows.values(), lambda row: row["network"].partition(":")[0]):
        own = list(group)
        share = min(float(row["share"]) for row in own)
        checks = ("exact", "ok"), ("trains", "ok"), ("exports", "torch.export")
        passed = [
            str(sum(row[column] == value for row in own))
            for column, value in (*checks, ("torch_pruning", "ok"))
        ]
        cells = [package, str(len(own)), f"{share:.2f}", *passed]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="by default all without a row")
    parser.add_argument(
        "--page", action="store_true", help="only print the table of docs/packages.md"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of other libraries
    torch.set_num_threads(1)
    rows: dict[str, Any] = read_table() if TABLE.exists() else {}
    if options.page:
        print(format_summary(rows))
        return
    for word in options.networks or [word for word in NETWORKS if word not in rows]:
        rows[word] = {"network": word, **run_apart(word)}
        print("  ".join(f"{k} {v}" for k, v in rows[word].items()), flush=True)
        ordered = sorted(rows.values(), key=lambda row: list(NETWORKS).index(row["network"]))
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(ordered)


if __name__ == "__main__":
    main()
