"""Claim: the 90 % band of a law holds the widths that other searches of its protocol propose.

For the published descents (`--records`, a folder of ARCH-DATA.records.csv with columns iteration,
step, tau, w0, ...): how often the band of iteration i holds the widths of iteration i + 1 at 0.25x,
0.5x and 1x, from iteration 8 on, where descent hardly moves; the same for a band of the
fit's covariance alone; and the iteration after which `--convergence band` ends.

For searches of our own: how often the band of one seed holds the widths of the other seeds, and
their distance (nsopt/scaling/distance.py), which is the noise floor of the protocol.
"""

import argparse
import sys
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import nsopt
from benchmarks.common import show
from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import CostModel, IntArray
from nsopt.scaling.distance import law_distance
from nsopt.scaling.fit_error import FitError
from nsopt.scaling.law import PowerLaw, floor_widths
from nsopt.scaling.record import Iteration, Trajectory
from nsopt.scaling.solve import WidthFit, solve_widths
from nsopt.session.presets import get_preset

_PUBLISHED = (
    ("vgg11", "cifar10", 10),
    ("resnet18", "cifar100", 100),
    ("mobilenetv2", "cifar100", 100),
)
_RATIOS = (0.25, 0.5, 1.0)
_SETTLED_FROM = 8
_SMALL = 10  # the published search raises smaller proposals by that much


def coverage(law: PowerLaw, others: list[PowerLaw], arch: Architecture) -> float:
    """How many widths of `others` lie in the band of `law`."""
    cost = arch.cost("params")
    budgets = [cost(floor_widths(ratio, arch.base_widths)) for ratio in _RATIOS]
    low, high = _edges(solve_widths(law, cost, budgets))
    inside = [
        (low <= other) & (other <= high)
        for other in (solve_widths(other, cost, budgets).widths for other in others)
    ]
    return float(np.mean(inside))


def _edges(fit: WidthFit) -> tuple[IntArray, IntArray]:
    assert fit.widths_low is not None
    assert fit.widths_high is not None
    return fit.widths_low, fit.widths_high


def without_scatter(law: PowerLaw) -> PowerLaw:
    """The law with the covariance of its fit alone as error."""
    assert law.error is not None
    none, many = np.zeros(law.layers), np.full(law.layers, 1e6)
    return PowerLaw(law.alpha, law.beta, law.r2, FitError(none, law.error.covariance, many))


def of_published(folder: Path, name: str, data: str, classes: int) -> dict[str, Any]:
    arch = nsopt.get_architecture(name, num_classes=classes)
    records = pd.read_csv(folder / f"{name}-{data}.records.csv")
    columns = [column for column in records if column.startswith("w")]
    laws = [
        PowerLaw.fit(rows[columns].to_numpy(), rows["tau"].to_numpy())
        for _, rows in records.groupby("iteration")
    ]
    late = laws[_SETTLED_FROM - 1 :]
    pairs = list(pairwise(late))
    return {
        "band_holds": np.mean([coverage(law, [other], arch) for law, other in pairs]),
        "covariance_alone_holds": np.mean(
            [coverage(without_scatter(law), [other], arch) for law, other in pairs]
        ),
        "distance_of_neighbours": np.mean(
            [law_distance(*pair, arch.cost("params"), arch.base_widths) for pair in pairs]
        ),
        "descent_would_end_after": _end_of_descent(laws, arch),
    }


def _end_of_descent(laws: list[PowerLaw], arch: Architecture) -> int | None:
    """The iteration whose proposal is the network that it pruned, as far as can be told.

    The published records do not begin with the network that was pruned: from the second iteration
    on it is the proposal of the one before.
    """
    cost, start = arch.cost("params"), np.array(arch.base_widths)
    for number, law in enumerate(laws, start=1):
        if _iteration(law, cost, start, arch).is_settled and number > 2:
            return number
        proposal = solve_widths(law, cost, cost(arch.base_widths)).widths
        start = np.where(proposal < _SMALL, proposal + _SMALL, proposal)
    return None


def _iteration(law: PowerLaw, cost: CostModel, start: Any, arch: Architecture) -> Iteration:
    fit = solve_widths(law, cost, cost(arch.base_widths))
    widths, low, high = (tuple(found.tolist()) for found in (fit.widths, *_edges(fit)))
    trajectory = Trajectory(start[None], np.array([float(cost(start))]))
    return Iteration(trajectory, law, widths, 0.0, widths_low=low, widths_high=high)


def of_seeds(arch_name: str, data_name: str, preset: str, seeds: int) -> dict[str, Any]:
    data = nsopt.load_data(data_name)
    arch = nsopt.get_architecture(arch_name, len(data.classes), data.image_size, data.channels)
    settings = get_preset(preset).settings.search
    laws = [nsopt.search(arch, data, settings.updated(seed=seed)).law for seed in range(seeds)]
    pairs = list(permutations(laws, 2))
    cost = arch.cost("params")
    return {
        "seeds": seeds,
        "band_holds": np.mean([coverage(law, [other], arch) for law, other in pairs]),
        "covariance_alone_holds": np.mean(
            [coverage(without_scatter(law), [other], arch) for law, other in pairs]
        ),
        "distance_of_seeds": np.mean(
            [law_distance(*pair, cost, arch.base_widths) for pair in pairs]
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, help="folder of published records")
    parser.add_argument("--arch", default="vgg11")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="two seeds")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if options.records:
        for name, data, classes in _PUBLISHED:
            results[f"published {name} {data}"] = of_published(options.records, name, data, classes)
    seeds = 2 if options.quick else options.seeds
    results[f"{options.arch} {options.data} {options.preset}"] = of_seeds(
        options.arch, options.data, options.preset, seeds
    )
    show(results, options.json)


if __name__ == "__main__":
    main()
