"""What a comparison is asked for: methods, budgets and seeds, on one task."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsopt.errors import NsoptError
from nsopt.methods.base import Method
from nsopt.methods.registry import baseline
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import floor_widths, uniform_curve
from nsopt.scaling.metric import MACS, Metric
from nsopt.scaling.solve import solve_widths
from nsopt.settings import Price
from nsopt.storage.trials import Point
from nsopt.study.task import Task

_APART = 1.1  # sizes that differ by less are about the same


@dataclass(frozen=True)
class Size:
    """A budget in the unit of a metric; `ratio` is None where it was given as a number."""

    budget: int | float
    ratio: float | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every method at every size with `seeds` seeds, from that of the settings on.

    references: how many uniform networks are trained beside, at MAC budgets that reach as far as
    the MACs and the latencies of the other methods' networks, so that uniform scaling can be read
    off at those.
    """

    task: Task
    methods: tuple[Method, ...]
    metric: Metric
    sizes: tuple[Size, ...]
    seeds: int
    references: int = 0

    @property
    def searches(self) -> dict[Price | None, int]:
        """How many iterations of descent the methods need by price, None for the settings' own;
        NsoptError for more than are run."""
        task, needed = self.task, dict[str, tuple[Price | None, int]]()
        for method in self.methods:
            kind = task.search_kind(method.price)
            _, before = needed.get(kind, (None, 0))
            iterations = method.search_iterations(task.settings.search)
            needed[kind] = (method.price, max(before, iterations))
        return {price: iterations for price, iterations in needed.values() if iterations}

    def points(self, method: Method) -> list[Point]:
        """The points of a method, size by size."""
        return [
            Point(method.name, self.metric.name, size.budget, seed, size.ratio)
            for size in self.sizes
            for seed in self.all_seeds
        ]

    @property
    def all_seeds(self) -> range:
        first = self.task.settings.training.seed
        return range(first, first + self.seeds)


def sizes_of_ratios(
    arch: Architecture, metric: Metric, ratios: Sequence[float]
) -> tuple[Size, ...]:
    """Budgets of uniform networks at width ratios; NsoptError for a ratio of 0 or less."""
    for ratio in ratios:
        if not 0 < ratio < float("inf"):
            raise NsoptError(f"a width ratio must be above 0, got {ratio:g}")
    cost = metric.cost(arch)
    return tuple(Size(cost(floor_widths(ratio, arch.base_widths)), ratio) for ratio in ratios)


def sizes_of_budgets(
    arch: Architecture, metric: Metric, budgets: Sequence[float]
) -> tuple[Size, ...]:
    """Budgets as given; NsoptError for one that no widths can meet."""
    for budget in budgets:
        solve_widths(uniform_curve(arch.base_widths), metric.cost(arch), budget)
    return tuple(Size(budget) for budget in budgets)


def reference_budgets(
    comparison: Comparison, macs: Sequence[float], latency: Sequence[float]
) -> list[int]:
    """MACs of uniform networks that span the others. macs, latency: of all networks that are
    compared, uniform ones first, at one size after the other.

    A uniform network is taken to be slower in proportion to its MACs. There are none where all
    networks have about the same of both.
    """
    sizes = len({size.budget for size in comparison.sizes})
    own_macs, own_latency = np.array(macs[:sizes]), np.array(latency[:sizes])
    equal_latency = np.resize(own_macs / own_latency, len(latency)) * np.array(latency)
    wanted = np.concatenate([macs, equal_latency])
    low, high = float(wanted.min()), float(wanted.max())
    if not comparison.references or high < _APART * low:
        return []

    def is_new(budget: float) -> bool:
        return bool(np.abs(np.log(budget / own_macs)).min() > np.log(_APART))

    budgets = np.geomspace(low, high, comparison.references + (not is_new(low))).astype(np.int64)
    new = [budget for budget in budgets.tolist() if is_new(budget)]
    smallest = MACS.cost(comparison.task.arch)([1] * len(comparison.task.arch.base_widths))
    return [budget for budget in new if budget >= smallest]


def reference_points(comparison: Comparison, budgets: Sequence[int]) -> list[Point]:
    """The points of uniform networks of these MACs."""
    return [
        Point(baseline().name, MACS.name, budget, seed)
        for budget in budgets
        for seed in comparison.all_seeds
    ]
