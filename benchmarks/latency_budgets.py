"""Claim: a network that is proposed for half the milliseconds takes no longer, timed afterwards.

For each network of torchvision and timm three networks are proposed for half of the milliseconds
that the whole one takes: uniform ones, and along laws by which the first or the last layers keep
more of their width. Each comes from `solve_measured_widths`, which times at most 12 networks; a
line over the MACs of two timed networks says where to begin. All are then timed side by side with
the whole network. Prints in the end how many proposals took longer than the budget, and than the
whole network. It continues where it stopped.

Needs the optional dependencies: pip install 'nsopt[timm,export]'.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
import torch
from torch import nn

import nsopt
from benchmarks.trained import Results
from nsopt.errors import NsoptError
from nsopt.latency.linear import fit_linear
from nsopt.latency.measure import measure_latencies
from nsopt.latency.runtime import Measure, choose_runtime
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import PowerLaw

_SHARE = 0.5
_WARMUP, _PASSES = 2, 12
_SLOPES = {"uniform": (1.0, 1.0), "wide first": (0.6, 1.4), "wide last": (1.4, 0.6)}
_NETWORKS = """
torchvision: resnet18 resnet34 alexnet vgg11 vgg11_bn vgg13_bn squeezenet1_0 squeezenet1_1
mobilenet_v2 mobilenet_v3_small mobilenet_v3_large shufflenet_v2_x0_5 shufflenet_v2_x1_0 mnasnet0_5
mnasnet1_0 regnet_x_400mf regnet_y_400mf efficientnet_b0 googlenet densenet121
timm: test_byobnet test_efficientnet test_mambaout test_convnext test_resnet test_vit resnet10t
resnet14t resnet18d resnet26d convnext_atto convnext_femto mobilenetv3_small_100 lcnet_050
mobilenetv4_conv_small ghostnet_100 regnetx_002 regnety_002 repvgg_a0 efficientnet_lite0
"""


def words() -> Iterator[str]:
    """The names of the networks."""
    library = ""
    for word in _NETWORKS.split():
        if word.endswith(":"):
            library = word
        else:
            yield library + word


class Counter(nsopt.Silent):
    """Counts the networks that are timed."""

    timed = 0

    def advance(self, detail: str = "") -> None:
        self.timed += 1


def processor_milliseconds(module: nn.Module, images: torch.Tensor) -> float:
    """Return the processor time of a pass, of this thread alone, whatever else the machine does."""
    taken = []
    with torch.no_grad():
        for _ in range(_WARMUP + _PASSES):
            start = time.thread_time()
            module(images)
            taken.append(time.thread_time() - start)
    return 1000 * float(np.median(taken[_WARMUP:]))


def propose(
    arch: Architecture, budget: float, runtime: str, own: Measure | None
) -> dict[str, tuple[nsopt.TimedWidths, int]]:
    """Return widths that were timed within `budget` milliseconds, by shape, and how many networks
    were timed for them."""
    base, found = np.array(arch.base_widths), {}
    for shape, (first, last) in _SLOPES.items():
        law = PowerLaw(base, np.linspace(first, last, len(base)), np.ones(len(base)))
        counter = Counter()
        fit = nsopt.solve_measured_widths(
            *(arch, law, budget), runtime=runtime, measure=own, max_width=base, progress=counter
        )
        found[shape] = fit, counter.timed
    return found


def measure(word: str, size: int, clock: str, rows: Results) -> None:
    """Add a row for each proposal of a network, or one that says what went wrong."""
    own, name = (processor_milliseconds, "torch") if clock == "processor" else (None, clock)
    runtime, about = choose_runtime(name, own), {"network": word, "size": size, "clock": clock}

    def time_widths(networks: Sequence[tuple[int, ...]]) -> list[float]:
        models = [arch.build(widths) for widths in networks]
        measured = measure_latencies(models, arch.input_shape, 10, 40, runtime=runtime)
        return [latency.median_ms for latency in measured]

    try:
        arch = nsopt.get_architecture(word, image_size=size)
        arch = arch.with_latency(fit_linear(arch, time_widths))
        (before,) = time_widths([arch.base_widths])
        proposed = propose(arch, _SHARE * before, name, own)
    except NsoptError as error:
        rows.add(**about, shape="", error=str(error))
        return
    whole, *times = time_widths([arch.base_widths, *(fit.widths for fit, _ in proposed.values())])
    for (shape, (fit, timed)), milliseconds in zip(proposed.items(), times, strict=True):
        rows.add(
            **about,
            shape=shape,
            widths=fit.widths,
            budget=_SHARE * before,
            predicted=fit.predicted,
            bisected=fit.measured,
            timed=timed,
            measured=milliseconds,
            whole=whole,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(words()))
    parser.add_argument("--size", type=int, default=64, help="side of the images, in pixels")
    parser.add_argument(
        "--clock",
        default="torch",
        choices=("torch", "onnxruntime", "processor"),
        help="processor: processor time of PyTorch, on a machine with other work",
    )
    parser.add_argument("--folder", type=Path, required=True, help="for results")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = Results(options.folder / "latency_budgets.jsonl", ("network", "size", "clock"))
    for word in options.networks:
        if not rows.has(network=word, size=options.size, clock=options.clock):
            measure(word, options.size, options.clock, rows)
    timed = [row for row in rows.rows if row["shape"] and row["clock"] == options.clock]
    over = np.array([row["measured"] / row["budget"] for row in timed])
    part = np.array([row["measured"] / row["whole"] for row in timed])
    drift = np.array([_SHARE * row["whole"] / row["budget"] for row in timed])
    networks = np.array([row["timed"] for row in timed])
    print(
        f"{len({row['network'] for row in timed})} networks, {len(timed)} proposals: "
        f"{(part > 1).sum()} slower than the whole network, {(over > 1).sum()} above the budget "
        f"({(over > 1.05).sum()} by more than 5 %, at most {over.max() - 1:+.0%}); "
        f"median time {np.median(over):.2f} of the budget; {(part > _SHARE).sum()} above half of "
        f"the whole network beside them ({(part > 1.05 * _SHARE).sum()} by more than 5 %), which "
        f"was {drift.min():.2f} to {drift.max():.2f} times as slow as before; "
        f"{networks.mean():.1f} networks timed on average, {networks.max()} at most"
    )


if __name__ == "__main__":
    main()
