"""Check nsopt on networks of torchvision and timm, beside Torch-Pruning.

A line for every network: its widths, the groups that have to stay, the seconds of a trace, and
whether each check of tests/tracing/checks.py holds: networks of other widths cost what nsopt
predicts; a search ends in a law; a pruned network computes what the masked one does, in float64;
exports by PyTorch and to ONNX compute the same; another process loads its state. Torch-Pruning
prunes 40 % of the channels of the same network at random: does the rest run, and can it be trained?

Needs packages beside nsopt: pip install 'nsopt[export,timm]' torch-pruning==1.6.1.
"""

import argparse
import copy
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import torch
from torch import Tensor, nn

from nsopt.models.imported import network_factory
from nsopt.models.trace import trace
from tests.tracing.checks import (
    OtherProcess,
    check_building,
    check_exports,
    check_pruning,
    check_search,
    randomise,
)
from tests.tracing.test_networks import LARGE_TIMM as TIMM
from tests.tracing.test_networks import LARGE_TORCHVISION as SLOW
from tests.tracing.test_networks import SMALL as FAST

_CLASSES = 10
_PRUNED = 0.4
_WITHOUT_END = ("torchvision:swin_t",)  # Torch-Pruning 1.6.1 took 17 GB there and was stopped


def outcome(check: Callable[[], object]) -> str:
    """Return `ok`, or the first line of the error."""
    try:
        check()
    except Exception as error:  # other libraries and networks may raise anything
        first = re.sub(r"\x1b\[\d+m", "", str(error)).partition("\n")[0]  # without colours
        return f"{type(error).__name__}: {first}"[:80]
    return "ok"


def nsopt_row(word: str, size: int, other: OtherProcess) -> dict[str, Any]:
    torch.manual_seed(0)
    model, x = network_factory(word)(_CLASSES), torch.randn(2, 3, size, size)
    start = time.perf_counter()
    arch = trace(model, x, word)
    seconds = time.perf_counter() - start
    row = {
        "network": word,
        "image": size,
        "widths": len(arch.base_widths),
        "refused": len(arch.refused),
        "capped": len(arch.capped),
        "trace_s": round(seconds, 1),
        "fixed": arch.summary().partition("fixed: ")[2],
        "build": outcome(lambda: check_building(arch, x)),
        "search": outcome(lambda: check_search(arch, x)),
    }
    randomise(model)
    with tempfile.TemporaryDirectory() as folder:
        row["prune"] = outcome(lambda: check_pruning(arch, model, x))
        row["export"] = outcome(lambda: check_exports(arch, model, x, Path(folder)))
        row["reload"] = outcome(lambda: other.check_reload(arch, x, Path(folder)))
    return row


def torch_pruning_row(word: str, size: int) -> dict[str, Any]:
    import torch_pruning  # noqa: PLC0415  (optional)

    if word in _WITHOUT_END:
        return {"tp_prunes": "stopped: 17 GB"}
    torch.manual_seed(0)
    model, x = network_factory(word)(_CLASSES).eval(), torch.randn(2, 3, size, size)
    before = sum(p.numel() for p in model.parameters())
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    last = linear[-1:] or [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1:]
    pruned = copy.deepcopy(model)
    keep = [dict(pruned.named_modules())[n] for n, m in model.named_modules() if m in last]

    def prune() -> None:
        torch_pruning.pruner.BasePruner(
            pruned,
            x,
            importance=torch_pruning.importance.RandomImportance(),
            pruning_ratio=_PRUNED,
            ignored_layers=keep,
        ).step()
        pruned(x)

    def train() -> Tensor:
        result = pruned.train()(x)
        return result if isinstance(result, Tensor) else result[0]

    row = {"tp_prunes": outcome(prune), "tp_trains": outcome(train)}
    left = sum(p.numel() for p in pruned.parameters()) / before
    return row | {"tp_params_left": round(left, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="by default all networks of the tests")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the faster half of torchvision's")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of other libraries
    torch.set_num_threads(1)
    known = FAST if options.quick else FAST | SLOW | TIMM
    other = OtherProcess()
    for word in options.networks or known:
        size = (FAST | SLOW | TIMM).get(word, (64, 0, 0))[0]
        row = nsopt_row(word, size, other) | torch_pruning_row(word, size)
        print(json.dumps(row) if options.json else "  ".join(f"{k} {v}" for k, v in row.items()))
        sys.stdout.flush()
    other.end()


if __name__ == "__main__":
    main()
