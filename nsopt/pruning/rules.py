"""Which units a prune step takes: so many filters, or so much of a metric.

Without a price filters are ranked by importance and every step takes the same number (Algorithm 1).
With one they are ranked by importance per what their removal frees, and sizes after the steps are a
geometric sequence, so that the record is evenly spaced in log tau.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nsopt.errors import ShortRecordError
from nsopt.models.architecture import Architecture
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.cost import CostModel, IntArray
from nsopt.scaling.law import FloatArray, floor_widths
from nsopt.scaling.metric import PARAMS, Metric, get_metric
from nsopt.scaling.record import MIN_ROWS

Masks = list[NDArray[np.bool_]]


def scale_metric(price: str) -> Metric:
    """The metric of tau, and of the original size in descent: the price, or parameters."""
    return PARAMS if price == "filters" else get_metric(price)


class PruneRule(Protocol):
    """What every prune step keeps. counted: what it counts, in a word; steps: how many there are,
    from the unpruned network to the smallest."""

    @property
    def counted(self) -> str: ...
    @property
    def steps(self) -> int: ...

    def kept(self, importance: Sequence[FloatArray], steps: int) -> Masks:
        """Which units of each group are kept after `steps` prune steps: masks (w_l,).

        importance: of the units that are left, (w_l,) each.
        """

    def left(self, widths: Sequence[int]) -> float:
        """The fraction of what it counts that a network of `widths` has left."""


def make_rule(arch: Architecture, widths: Sequence[int], settings: SearchSettings) -> "PruneRule":
    """The rule by which a network of `widths` is pruned."""
    by_filters = FilterRule(
        np.array(arch.channels_per_unit),
        int(np.dot(widths, arch.channels_per_unit)),
        settings.keep_fraction,
        settings.filters_per_step,
    )
    if settings.price == "filters":
        return by_filters
    metric = get_metric(settings.price)
    cost = metric.cost(arch)
    full = cost(widths)
    end = cost(floor_widths(settings.keep_fraction, widths))
    return CostRule(
        metric.unit, cost, full, (end / full) ** (1 / by_filters.steps), by_filters.steps
    )


def check_steps(arch: Architecture, widths: Sequence[int], settings: SearchSettings) -> None:
    """ShortRecordError, before anything is trained, if there will be too few rows for a law."""
    rule = make_rule(arch, widths, settings)
    if rule.steps >= MIN_ROWS:
        return
    filters = int(np.dot(widths, arch.channels_per_unit))
    pruned = filters - math.floor(settings.keep_fraction * filters)
    largest = max(1, math.ceil(pruned / (MIN_ROWS - 1)) - 1)
    raise ShortRecordError(
        f"pruning ends after {rule.steps} steps and a law needs {MIN_ROWS}: try --filters-per-step "
        f"{largest} or less"
    )


@dataclass(frozen=True, eq=False)
class FilterRule:
    """The most important channels are kept, `per_step` fewer at every step (Algorithm 1), or that
    fraction of what is left.

    channels: of a unit of each group, (L,); total: channels before pruning. Of a unit of several
    channels the importance per channel counts.
    """

    channels: IntArray
    total: int
    keep_fraction: float
    per_step: int | float
    counted = "filters"

    @property
    def steps(self) -> int:
        return len(self._sizes) - 1

    @cached_property
    def _sizes(self) -> list[int]:
        """Channels before and after every step."""
        sizes, fewest = [self.total], math.floor(self.keep_fraction * self.total)
        while sizes[-1] > fewest:
            step = self.per_step
            taken = step if isinstance(step, int) else max(1, math.floor(step * sizes[-1]))
            sizes.append(max(fewest, sizes[-1] - taken))
        return sizes

    def kept(self, importance: Sequence[FloatArray], steps: int) -> Masks:
        wanted = self._sizes[min(steps, self.steps)]
        widths = [len(scores) for scores in importance]
        channels = np.repeat(self.channels, widths)
        order = np.argsort(-np.concatenate(importance) / channels, kind="stable")
        kept = np.zeros(len(order), dtype=np.bool_)
        kept[order[np.cumsum(channels[order]) <= wanted]] = True
        return np.split(kept, np.cumsum(widths)[:-1])

    def left(self, widths: Sequence[int]) -> float:
        return float(np.dot(widths, self.channels) / self.total)


@dataclass(frozen=True, eq=False)
class CostRule:
    """The units worth their price are kept; after n steps no more than full * fraction^n is left.

    That is counted from the unpruned network: what single units free too much does not add up.

    The price of a unit is the marginal cost of its group at the present widths: its own weights
    and those of its readers. full: the cost before pruning.
    """

    counted: str
    cost: CostModel
    full: float
    fraction: float
    steps: int

    def kept(self, importance: Sequence[FloatArray], steps: int) -> Masks:
        widths = np.array([len(scores) for scores in importance])
        price = np.maximum(self.cost.marginal(widths), np.finfo(np.float64).tiny)
        order = np.argsort(np.concatenate(importance) / np.repeat(price, widths), kind="stable")
        group = np.repeat(np.arange(len(widths)), widths)[order]
        removed = self._fewest_removals(widths, group, self.full * self.fraction**steps)
        kept = np.ones(len(order), dtype=np.bool_)
        kept[order[:removed]] = False
        return np.split(kept, np.cumsum(widths)[:-1])

    def left(self, widths: Sequence[int]) -> float:
        return float(self.cost(widths) / self.full)

    def _fewest_removals(self, widths: IntArray, group: IntArray, budget: float) -> int:
        """How many units, removed in the order of their groups `group`, leave no more than the
        budget: one at least. A group keeps its last one here."""

        def fits(removals: int) -> bool:
            left = widths - np.bincount(group[:removals], minlength=len(widths))
            return bool(self.cost(np.maximum(left, 1)) <= budget)

        low, high = 0, len(group)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high
