"""Claim: a network proposed for half of the milliseconds takes no more, timed afterwards.

For each network of torchvision and timm a uniform network is proposed for half of the milliseconds
that the whole one takes, by `solve_measured_widths`, which times at most eight networks in turns
with the whole one. Other shapes keep more of the first or the last layers. Afterwards a loop of its
own times each proposal, pass by pass in turns with the whole network; the share is the median of
the ratios. Prints how many shares are within half, how well they fill it, and how long a proposal
took. With --rounded, widths are rounded as `nsopt.compress` does. With --busy 2, two programs
compute meanwhile. It continues where it stopped.

Needs the optional dependencies: pip install 'nsopt[timm,export]'.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
import torch
from torch import nn

import nsopt
from benchmarks.trained import Results
from nsopt.errors import NsoptError
from nsopt.latency.measure import CPU
from nsopt.latency.multiples import find_multiple, suit
from nsopt.latency.runtime import Runtime, choose_runtime, draw_images
from nsopt.scaling.law import PowerLaw

_SHARE = 0.5
_SLOPES = {"uniform": (1.0, 1.0), "wide first": (0.6, 1.4), "wide last": (1.4, 0.6)}
_NETWORKS = """
torchvision: resnet18 resnet34 alexnet vgg11 vgg11_bn vgg13_bn squeezenet1_0 squeezenet1_1
mobilenet_v2 mobilenet_v3_small mobilenet_v3_large shufflenet_v2_x0_5 shufflenet_v2_x1_0 mnasnet0_5
mnasnet1_0 regnet_x_400mf regnet_y_400mf efficientnet_b0 googlenet densenet121 resnet50
timm: test_byobnet test_efficientnet semnasnet_075 test_convnext test_resnet resnet10t
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


def time_in_turns(
    small: nn.Module, whole: nn.Module, shape: tuple[int, ...], runtime: Runtime, passes: int
) -> tuple[float, float]:
    """Return the milliseconds of the whole network, and the share of them that the small one takes:
    medians over so many passes of each, in turns."""
    images = draw_images(shape, runtime.batch_size)
    runs = [runtime.prepare(model, images, CPU.device)(images) for model in (small, whole)]
    with torch.no_grad():
        timed = np.array([[run() for run in runs] for _ in range(passes + 3)])[3:]
    return 1000 * float(np.median(timed[:, 1])), float(np.median(timed[:, 0] / timed[:, 1]))


def measure(
    about: dict[str, Any], shape: str, runtime: Runtime, passes: int, rows: Results
) -> None:
    """Add the row of a proposal, or one that says what went wrong."""
    try:
        arch = nsopt.get_architecture(about["network"], image_size=about["size"])
        first, last = _SLOPES[shape]
        base, multiple = np.array(arch.base_widths), 1
        if about["rounded"]:
            multiple = suit(arch, find_multiple(CPU, runtime, nsopt.Silent()))
        law, counter = (
            PowerLaw(base, np.linspace(first, last, len(base)), np.ones(len(base))),
            Counter(),
        )
        began = time.perf_counter()
        found = nsopt.solve_measured_widths(
            *(arch, law, f"{_SHARE:.0%}"),
            runtime=runtime.name,
            batch_size=runtime.batch_size,
            multiple_of=multiple,
            max_width=base,
            fill=True,
            progress=counter,
        )
    except NsoptError as error:
        rows.add(**about, shape=shape, error=str(error))
        return
    seconds = time.perf_counter() - began
    small, whole = arch.build(found.widths), arch.build(arch.base_widths)
    milliseconds, share = time_in_turns(small, whole, arch.input_shape, runtime, passes)
    rows.add(
        **about,
        shape=shape,
        widths=found.widths,
        macs=arch.cost("macs")(found.widths),
        timed=counter.timed,
        seconds=seconds,
        ratio=found.ratio,
        bound=found.bound,
        whole=milliseconds,
        share=share,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(words()))
    parser.add_argument("--size", type=int, default=64, help="side of the images, in pixels")
    parser.add_argument("--shapes", nargs="+", default=["uniform"], choices=_SLOPES)
    parser.add_argument("--batch-size", type=int, default=4, help="images a pass")
    parser.add_argument("--runtime", default="torch", choices=("torch", "onnxruntime"))
    parser.add_argument("--rounded", action="store_true", help="to fast multiples")
    parser.add_argument("--busy", type=int, default=0, help="programs that compute meanwhile")
    parser.add_argument("--passes", type=int, default=200, help="of each network, afterwards")
    parser.add_argument("--folder", type=Path, required=True, help="for results")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    runtime = choose_runtime(options.runtime, batch_size=options.batch_size)
    names = "size", "runtime", "rounded", "busy"
    common = {name: getattr(options, name) for name in names} | {"batch": options.batch_size}
    rows = Results(options.folder / "latency_budgets.jsonl", ("network", *common, "shape"))
    loop = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(loop) for _ in range(options.busy)]
    try:
        for word in options.networks:
            for shape in options.shapes:
                about = {"network": word, **common}
                if not rows.has(**about, shape=shape):
                    measure(about, shape, runtime, options.passes, rows)
    finally:
        for other in others:
            other.kill()
    found = [row for row in rows.rows if common.items() <= row.items()]
    timed = [row for row in found if "share" in row]
    share, seconds, networks = (
        np.array([row[name] for row in timed]) for name in ("share", "seconds", "timed")
    )
    print(
        f"{len(found)} budgets, {len(timed)} proposals: {(share <= _SHARE).sum()} within, "
        f"filled to {share.mean() / _SHARE:.3f} on average, shares from {share.min():.3f} to "
        f"{share.max():.3f}; {seconds.mean():.1f} s a proposal, {seconds.max():.1f} at most; "
        f"{networks.mean():.1f} networks timed on average, {networks.max()} at most"
    )


if __name__ == "__main__":
    main()
