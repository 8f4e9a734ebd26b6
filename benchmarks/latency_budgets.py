"""Claim: a network that is proposed for half the milliseconds takes no longer, timed afterwards.

For each network of torchvision and timm the latency model is learned, and three networks are
proposed for half of the milliseconds that the whole one is predicted to take: uniform ones, and
along laws by which the first or the last layers keep more of their width. All are then timed side
by side with the whole network. Prints a line for each network, and in the end how many proposals
took longer than the budget, and than the whole network. It continues where it stopped.

Needs the optional dependency: pip install 'nsopt[timm]'.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np

import nsopt
from benchmarks.trained import Results
from nsopt.errors import NsoptError
from nsopt.latency.measure import measure_latencies
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import PowerLaw

_SHARE = 0.5
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


def propose(arch: Architecture, budget: float) -> dict[str, tuple[int, ...]]:
    """Return widths predicted to take at most `budget` milliseconds, by shape."""
    base, found = np.array(arch.base_widths), {}
    for shape, (first, last) in _SLOPES.items():
        law = PowerLaw(base, np.linspace(first, last, len(base)), np.ones(len(base)))
        fit = nsopt.solve_widths(law, arch.cost("latency"), budget, max_width=base)
        found[shape] = tuple(fit.widths.tolist())
    return found


def measure(word: str, size: int, rows: Results) -> None:
    """Add a row for each proposal of a network, or one that says what went wrong."""
    try:
        arch = nsopt.with_latency(nsopt.get_architecture(word, image_size=size))
        predicted = arch.cost("latency")
        budget = _SHARE * float(predicted(arch.base_widths))
        proposed = propose(arch, budget)
    except NsoptError as error:
        rows.add(network=word, size=size, shape="", error=str(error))
        return
    models = [arch.build(widths) for widths in (arch.base_widths, *proposed.values())]
    whole, *times = measure_latencies(models, arch.input_shape, warmup=10, repeats=40)
    for (shape, widths), time in zip(proposed.items(), times, strict=True):
        rows.add(
            network=word,
            size=size,
            shape=shape,
            widths=widths,
            budget=budget,
            predicted=float(predicted(widths)),
            measured=time.median_ms,
            whole=whole.median_ms,
            spread=time.spread,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(words()))
    parser.add_argument("--size", type=int, default=64, help="side of the images, in pixels")
    parser.add_argument("--folder", type=Path, required=True, help="for results")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = Results(options.folder / "latency_budgets.jsonl", ("network", "size"))
    for word in options.networks:
        if not rows.has(network=word, size=options.size):
            measure(word, options.size, rows)
    timed = [row for row in rows.rows if row["shape"]]
    over = np.array([row["measured"] / row["budget"] for row in timed])
    part = np.array([row["measured"] / row["whole"] for row in timed])
    print(
        f"{len({row['network'] for row in timed})} networks, {len(timed)} proposals: "
        f"{(part > 1).sum()} slower than the whole network, {(over > 1).sum()} above the budget "
        f"({(over > 1.05).sum()} by more than 5 %, at most {over.max() - 1:+.0%}); "
        f"median time {np.median(over):.2f} of the budget"
    )


if __name__ == "__main__":
    main()
