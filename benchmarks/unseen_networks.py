"""Count how many of 100 networks that no test names end in a law, are exact, and are exported.

The networks are drawn at random, before anything else runs on them. A family is a module of timm or
torchvision and the first word of a name in it. The draw takes 100 of the families of which no test
has a network. The smallest network stands for its family, if it has fewer than 30 million
parameters and runs on two images (of 64 pixels a side, or else of the size of its pretrained form).

Each network runs in a process of its own, on one thread: a copy of a process that has imported
everything. Its row of `unseen_networks.csv` has what the checks of tests/tracing/checks.py
say: `ok`, or the error. If torch.onnx does not export the pruned network, the row also says whether
it exports the original. Networks with results are not run again; delete the results to run one.

Needs the optional dependencies: pip install 'nsopt[benchmarks,export,timm]'.
"""

import argparse
import csv
import json
import multiprocessing
import random
import re
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import nsopt
from benchmarks.networks import outcome
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.imported import network_factory
from nsopt.models.onnx import export_to_onnx
from nsopt.torchvision_import import import_torchvision
from tests.tracing.checks import (
    OtherProcess,
    check_building,
    check_costs,
    check_exports,
    check_pruning,
    check_search,
    randomise,
)
from tests.tracing.test_networks import NETWORKS

_TABLE = Path(__file__).with_suffix(".csv")
_COLUMNS = (
    *("network", "image", "parameters", "trace_s", "widths", "share", "law", "exact", "masked"),
    *("reload", "export", "refusal"),
)
_CLASSES, _DRAWN, _LARGEST, _LIMIT_S = 10, 100, 30_000_000, 3600


def draw() -> list[dict[str, Any]]:
    """Return the names and image sizes of the networks."""
    import_torchvision("ops")
    import timm  # noqa: PLC0415  (optional, and only after torchvision)

    models, families = import_torchvision("models"), defaultdict(list)
    modules = {f"timm:{n}": timm.models._registry._model_to_module[n] for n in timm.list_models()}
    modules |= {
        f"torchvision:{n}": models.get_model_builder(n).__module__ for n in models.list_models()
    }
    for name, module in modules.items():
        library, _, word = name.partition(":")
        families[library, module, re.findall("[a-z]+", word)[0]].append(name)
    sizes: dict[str, int] = {}
    for names in families.values():
        counted = {} if set(names) & NETWORKS.keys() else _count_parameters(names)
        smallest = min(counted, key=lambda name: counted[name], default="")
        if smallest and counted[smallest] < _LARGEST and (image := _find_image(smallest)):
            sizes[smallest] = image
    chosen = random.Random(0).sample(sorted(sizes), _DRAWN)
    return [{"network": name, "image": sizes[name]} for name in chosen]


def _count_parameters(names: list[str]) -> dict[str, int]:
    counted = {}
    for name in names:
        try:
            with torch.device("meta"):
                counted[name] = sum(p.numel() for p in network_factory(name)(_CLASSES).parameters())
        except Exception:  # it needs a download or other arguments
            continue
    return counted


def _find_image(name: str) -> int | None:
    """Return a side of images on which a network runs, or None."""
    import timm  # noqa: PLC0415

    config = timm.get_pretrained_cfg(name.partition(":")[2]) if name.startswith("timm:") else None
    for size in (64, config.input_size[-1] if config else 224):
        for device in ("meta", "cpu"):
            try:
                _compute(name, size, device)
            except Exception:  # it takes other sizes
                continue
            return size
    return None


def _compute(name: str, size: int, device: str) -> None:
    with torch.device(device), torch.no_grad():
        model, x = network_factory(name)(_CLASSES), torch.randn(2, 3, size, size)
        for training in (False, True):
            leaves = tree_leaves(model.train(training)(x))
            assert any(isinstance(leaf, Tensor) for leaf in leaves)


def make_row(word: str, size: int, other: OtherProcess) -> dict[str, Any]:
    """Check a network; return its row of the table."""
    make = network_factory(word)
    torch.manual_seed(0)
    model, x = make(_CLASSES), torch.randn(2, 3, size, size)
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    start = time.process_time()
    try:
        arch = nsopt.trace(model, x, word)
        arch.explain()
    except NsoptError as error:
        return row | {"trace_s": round(time.process_time() - start, 1), "refusal": str(error)}
    row |= {"trace_s": round(time.process_time() - start, 1), "widths": len(arch.base_widths)}
    row |= {"share": round(share_that_changes(arch), 2)}

    def check_exact() -> None:
        check_costs(arch, make(_CLASSES), arch.base_widths, x)
        check_building(arch, x)

    with tempfile.TemporaryDirectory() as folder:
        checks: dict[str, Callable[[], object]] = {
            "law": lambda: check_search(arch, x),
            "exact": check_exact,
            "masked": lambda: check_pruning(arch, model, x),
            "reload": lambda: other.check_reload(arch, x, Path(folder)),
            "export": lambda: check_exports(arch, model, x, Path(folder)),
        }
        for name, check in checks.items():
            row[name] = outcome(check)
            if name == "exact":
                randomise(model)
        if row["export"] != "ok":
            unpruned = outcome(lambda: export_to_onnx(model, [x], {}, Path(folder) / "whole.onnx"))
            row["export"] += f"; unpruned: {unpruned}"
    return row


def share_that_changes(arch: Architecture) -> float:
    """Return the share of the parameters that have a width that can change."""
    family, named = arch.network.family, dict(arch.network.template.named_parameters())
    changing = {d.tensor for d, f in zip(family.dimensions, family.factors, strict=True) if f.any()}
    counts = {name: parameter.numel() for name, parameter in named.items()}
    return sum(n for name, n in counts.items() if name in changing) / sum(counts.values())


def fill_table() -> None:
    """Run the networks of the table that have no results, each in its own process."""
    with _TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    warm_up()
    other = OtherProcess()
    for row in rows:
        if row["trace_s"]:
            continue
        row.update(run_apart(row["network"], int(row["image"]), other))
        if row["reload"] != "ok":  # then it may have ended
            other = OtherProcess()
        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        write_table(rows)
    other.end()


def warm_up() -> None:
    """Import what a network needs, so that its own process takes no time for that."""
    for word in ("timm:test_convnext", "torchvision:resnet18"):
        model, x = network_factory(word)(_CLASSES), torch.randn(2, 3, 64, 64)
        nsopt.trace(model, x)
    import_module("sklearn.linear_model")
    with tempfile.TemporaryDirectory() as folder:
        export_to_onnx(nn.Conv2d(3, 1, 1), [x], {}, Path(folder) / "network.onnx")


def run_apart(word: str, size: int, other: OtherProcess) -> dict[str, Any]:
    """Return the row of a network, made in a copy of this process."""
    apart = multiprocessing.get_context("fork")
    receiver, sender = apart.Pipe(duplex=False)
    process = apart.Process(target=lambda: sender.send(make_row(word, size, other)))
    process.start()
    sender.close()
    try:
        ended = receiver.poll(_LIMIT_S)
        return receiver.recv() if ended else {"trace_s": "-", "law": "no end within an hour"}
    except EOFError:
        return {"trace_s": "-", "law": "the process died"}
    finally:
        process.kill()
        process.join()


def write_table(rows: list[dict[str, Any]]) -> None:
    with _TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="?", help="run this network alone, and print its row")
    parser.add_argument("image", nargs="?", type=int, default=64, help="the side of its images")
    parser.add_argument("--draw", action="store_true", help="draw the networks anew")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of other libraries
    torch.set_num_threads(1)
    if options.network:
        warm_up()
        print(json.dumps(make_row(options.network, options.image, OtherProcess())))
        return
    if options.draw:
        write_table(draw())
    fill_table()


if __name__ == "__main__":
    main()
