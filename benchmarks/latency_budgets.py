"""Claim: a network proposed for half of the milliseconds takes no more, timed afterwards.

For each network of torchvision and timm three networks are proposed for half of the milliseconds
that the whole one takes: uniform ones, and along laws by which the first or the last layers keep
more of their width. Each comes from `solve_measured_widths`, which times at most 12 networks, each
in turns with the whole one; a line over the MACs of two timed networks says where to begin. All are
then timed side by side with the whole network. Prints in the end how many proposals took more than
half of its milliseconds, or more than all. With --rounded, widths are rounded as `nsopt.compress`
does, and the rows say how many MACs that allows. It continues where it stopped.

Needs the optional dependencies: pip install 'nsopt[timm,export]'.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np

import nsopt
from benchmarks.common import time_alone
from benchmarks.trained import Results
from nsopt.errors import NsoptError
from nsopt.latency.learn import fit_linear
from nsopt.latency.multiples import find_multiple, multiple_per_layer
from nsopt.latency.runtime import Runtime, choose_runtime
from nsopt.latency.sittings import Latency
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import PowerLaw

_SHARE = 0.5
_AFTERWARDS = 100, 20  # passes, rounds
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


def propose(
    arch: Architecture, runtime: Runtime, shapes: Sequence[str], multiples: Sequence[int]
) -> dict[str, tuple[Latency, int]]:
    """Return widths that were timed within half of the milliseconds, by shape, and how many
    networks were timed for them."""
    base, found = np.array(arch.base_widths), {}
    for shape in shapes:
        first, last = _SLOPES[shape]
        law = PowerLaw(base, np.linspace(first, last, len(base)), np.ones(len(base)))
        counter = Counter()
        fit = nsopt.solve_measured_widths(
            *(arch, law, f"{_SHARE:.0%}"),
            runtime=runtime.name,
            batch_size=runtime.batch_size,
            multiple_of=multiples,
            max_width=base,
            progress=counter,
        )
        found[shape] = fit, counter.timed
    return found


def measure(
    word: str, about: dict[str, Any], runtime: Runtime, shapes: Sequence[str], rows: Results
) -> None:
    """Add a row for each proposal of a network, or one that says what went wrong."""
    about = {"network": word, **about}

    def time_widths(
        networks: Sequence[tuple[int, ...]], repeats: int = 40, rounds: int = 4
    ) -> list[float]:
        models = [arch.build(widths) for widths in networks]
        return time_alone(models, arch.input_shape, 2 * rounds, repeats, rounds, runtime)

    try:
        arch = nsopt.get_architecture(word, image_size=about["size"])
        multiples = multiple_per_layer(arch, about["multiple"])
        arch = arch.with_latency(fit_linear(arch, time_widths))
        (before,) = time_widths([arch.base_widths])
        proposed = propose(arch, runtime, shapes, multiples)
    except NsoptError as error:
        rows.add(**about, shape="", error=str(error))
        return
    networks = [arch.base_widths, *(fit.widths for fit, _ in proposed.values())]
    whole, *times = time_widths(networks, *_AFTERWARDS)
    for (shape, (fit, timed)), milliseconds in zip(proposed.items(), times, strict=True):
        rows.add(
            **about,
            shape=shape,
            widths=fit.widths,
            macs=arch.cost("macs")(fit.widths),
            timed=timed,
            before=before,
            whole=whole,
            measured=milliseconds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(words()))
    parser.add_argument("--size", type=int, default=64, help="side of the images, in pixels")
    parser.add_argument("--shapes", nargs="+", default=list(_SLOPES), choices=_SLOPES)
    parser.add_argument("--batch-size", type=int, default=1, help="images a pass")
    parser.add_argument("--runtime", default="torch", choices=("torch", "onnxruntime"))
    parser.add_argument("--rounded", action="store_true", help="to fast multiples")
    parser.add_argument("--folder", type=Path, required=True, help="for results")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    runtime = choose_runtime(options.runtime, batch_size=options.batch_size)
    multiple = find_multiple("cpu", runtime, nsopt.Silent()) if options.rounded else 1
    about = {
        "size": options.size,
        "batch": runtime.batch_size,
        "runtime": runtime.name,
        "multiple": multiple,
    }
    rows = Results(options.folder / "latency_budgets.jsonl", ("network", *about))
    for word in options.networks:
        if not rows.has(network=word, **about):
            measure(word, about, runtime, options.shapes, rows)
    timed = [row for row in rows.rows if row["shape"] and about.items() <= row.items()]
    part = np.array([row["measured"] / row["whole"] for row in timed])
    drift = np.array([row["whole"] / row["before"] for row in timed])
    networks = np.array([row["timed"] for row in timed])
    print(
        f"{len({row['network'] for row in timed})} networks, {len(timed)} proposals: "
        f"{(part > 1).sum()} slower than the whole network, {(part > _SHARE).sum()} above the "
        f"budget; share of the whole network's milliseconds: median {np.median(part):.3f}, at most "
        f"{part.max():.3f}; the whole network took {drift.min():.2f} to {drift.max():.2f} times as "
        f"long as before; {networks.mean():.1f} networks timed on average, {networks.max()} at most"
    )


if __name__ == "__main__":
    main()
