"""Rules that choose which units a prune step removes: a number of filters, or part of a cost.

Without a price, units are ranked by importance and every step removes the same number of filters
(Algorithm 1). With a price, units are ranked by importance per cost, and the costs after the steps
are a geometric sequence. The record is then evenly spaced in log tau.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nsopt.errors import DeterministicError, ShortRecordError
from nsopt.models.architecture import Architecture
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.cost import CostModel, FloatArray, IntArray
from nsopt.scaling.law import floor_widths
from nsopt.scaling.metric import PARAMS, Metric, get_metric
from nsopt.scaling.record import MIN_ROWS

Masks = list[NDArray[np.bool_]]
_SMALLEST_RANGE = 0.1  # part of the size that pruning can remove


def get_size_metric(price: str) -> Metric:
    """Return the metric of tau and of the original size: that of the price, or else parameters."""
    return PARAMS if price == "filters" else get_metric(price)


def make_rule(arch: Architecture, widths: Sequence[int], settings: SearchSettings) -> "PruneRule":
    """Return the rule for pruning a network of `widths`."""
    by_filters = FilterRule(
        np.array(arch.channels_per_unit),
        _count_filters(arch, widths),
        settings.keep_fraction,
        settings.filters_per_step,
    )
    if settings.price == "filters":
        return by_filters
    metric = get_metric(settings.price)
    cost = metric.cost(arch)
    full = cost(widths)
    end = cost(floor_widths(settings.keep_fraction, widths))
    fraction = (end / full) ** (1 / by_filters.steps)
    return CostRule(metric.unit, cost, full, fraction, by_filters.steps)


def with_enough_steps(
    arch: Architecture, widths: Sequence[int], settings: SearchSettings
) -> SearchSettings:
    """Return the settings; with fewer filters in a step if the record would be too short for a law.

    A fraction of the filters stays: it suits networks of all sizes.
    """
    largest = _find_largest_step(arch, widths, settings)
    if not isinstance(settings.filters_per_step, int) or settings.filters_per_step <= largest:
        return settings
    return settings.updated(filters_per_step=largest)


def _find_largest_step(arch: Architecture, widths: Sequence[int], settings: SearchSettings) -> int:
    """Return how many filters a step may remove so that the record is long enough for a law."""
    filters = _count_filters(arch, widths)
    pruned = filters - math.floor(settings.keep_fraction * filters)
    return max(1, math.ceil(pruned / (MIN_ROWS - 1)) - 1)


def _count_filters(arch: Architecture, widths: Sequence[int]) -> int:
    return int(np.dot(widths, arch.channels_per_unit))


def check_steps(arch: Architecture, widths: Sequence[int], settings: SearchSettings) -> None:
    """Raise ShortRecordError, before any training, if the record will be too short for a law."""
    rule = make_rule(arch, widths, settings)
    if rule.steps >= MIN_ROWS:
        return
    advice = f"the network has only {_count_filters(arch, widths)} filters"
    if not isinstance(settings.filters_per_step, int):
        advice = f"try filters_per_step={_find_largest_step(arch, widths, settings)} or less"
    raise ShortRecordError(
        f"pruning ends after {rule.steps} of the {MIN_ROWS} steps that a law needs: {advice}"
    )


def check_range(arch: Architecture, widths: Sequence[int], settings: SearchSettings) -> None:
    """Raise DeterministicError, before any training, if pruning hardly changes the size.

    The exponents of a law would then be too large for floating-point numbers.
    """
    metric = get_size_metric(settings.price)
    cost = metric.cost(arch)
    fewest = [width if rigid else 1 for width, rigid in zip(widths, arch.rigid, strict=True)]
    share = 1 - cost(fewest) / cost(widths)
    if share < _SMALLEST_RANGE:
        raise DeterministicError(
            f"pruning can remove at most {share:.1%} of the {metric.unit} of {arch.name}, and a "
            f"law needs {_SMALLEST_RANGE:.0%}: its explain() lists the fixed widths"
        )


@dataclass(frozen=True, eq=False)
class FilterRule:
    """Keeps the most important filters (Algorithm 1). If a unit has several, their mean counts.

    Attributes:
        channels: filters per unit of each group, (L,).
        total: number of filters before pruning.
        keep_fraction: fraction of the filters at which pruning ends.
        per_step: filters to remove in a step, a number or a fraction of those that are left.
        counted: what the rule counts, in a word.
    """

    channels: IntArray
    total: int
    keep_fraction: float
    per_step: int | float
    counted = "filters"

    @property
    def steps(self) -> int:
        """Number of steps from the unpruned network to the smallest one."""
        return len(self._sizes) - 1

    @cached_property
    def _sizes(self) -> list[int]:
        """The number of filters before the first step and after every step."""
        sizes, fewest = [self.total], math.floor(self.keep_fraction * self.total)
        while sizes[-1] > fewest:
            step = self.per_step
            removed = step if isinstance(step, int) else max(1, math.floor(step * sizes[-1]))
            sizes.append(max(fewest, sizes[-1] - removed))
        return sizes

    def choose_kept(self, importance: Sequence[FloatArray], steps: int) -> Masks:
        """Return the units to keep after `steps` prune steps: masks (w_l,) per group.

        Args:
            importance: of the units that are left, (w_l,) per group.
        """
        wanted = self._sizes[min(steps, self.steps)]
        widths = [len(scores) for scores in importance]
        channels = np.repeat(self.channels, widths)
        order = np.argsort(-np.concatenate(importance) / channels, kind="stable")
        kept = np.zeros(len(order), dtype=np.bool_)
        kept[order[np.cumsum(channels[order]) <= wanted]] = True
        return np.split(kept, np.cumsum(widths)[:-1])

    def measure_left(self, widths: Sequence[int]) -> float:
        """Return the fraction of the filters that a network of `widths` has left."""
        return float(np.dot(widths, self.channels) / self.total)


@dataclass(frozen=True, eq=False)
class CostRule:
    """Keeps the units with the highest importance per cost.

    After n steps the cost is at most `full * fraction**n`.
    The limit counts from the unpruned network, so that overshoots of single steps do not add up.
    The cost of a unit is the marginal cost of its group at the current widths: of its own weights
    and of those that read it.

    Attributes:
        counted: the unit of the cost.
        full: the cost before pruning.
        fraction: the part of the cost that each step leaves.
    """

    counted: str
    cost: CostModel
    full: float
    fraction: float
    steps: int

    def choose_kept(self, importance: Sequence[FloatArray], steps: int) -> Masks:
        """Return the units to keep, see `FilterRule`."""
        widths = np.array([len(scores) for scores in importance])
        price = np.maximum(self.cost.marginal(widths), np.finfo(np.float64).tiny)
        order = np.argsort(np.concatenate(importance) / np.repeat(price, widths), kind="stable")
        group = np.repeat(np.arange(len(widths)), widths)[order]
        left = self._count_left(widths, group, self.full * self.fraction**steps)
        kept = np.ones(len(order), dtype=np.bool_)
        kept[order[: len(order) - left]] = False
        return np.split(kept, np.cumsum(widths)[:-1])

    def measure_left(self, widths: Sequence[int]) -> float:
        """Return the fraction of the cost that a network of `widths` has left."""
        return float(self.cost(widths) / self.full)

    def _count_left(self, widths: IntArray, group: IntArray, budget: float) -> int:
        """Return how many units are left when just enough are removed, at least one.

        Args:
            group: the groups of the units (N,), in the order of removal. The cost of a group is
                never counted below that of one unit.
        """
        total = len(group)

        def is_too_dear(left: int) -> bool:
            removed = np.bincount(group[: total - left], minlength=len(widths))
            return bool(self.cost(np.maximum(widths - removed, 1)) > budget)

        return bisect_left(range(total), True, lo=1, key=is_too_dear) - 1


PruneRule = FilterRule | CostRule
