"""Budgets in milliseconds of a compression: widths as measured, rounded to suit the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsopt.compression.budgets import find_widths, limit_widths
from nsopt.latency.bisection import Widths
from nsopt.latency.budget import MeasuredBudget
from nsopt.latency.multiples import find_multiple, suit
from nsopt.latency.timer import Timer
from nsopt.models.architecture import Architecture
from nsopt.scaling.budget import Budget
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import LATENCY
from nsopt.session.presets import StudySettings

_ROOM = 0.8  # of a budget: predictions are off by a tenth


@dataclass(frozen=True, eq=False)
class Solver:
    """Finds the widths along laws at a budget; milliseconds hold as measured.

    Attributes:
        arch: the trained network, with a latency model if a budget limits milliseconds.
        settings: they round widths.
    """

    budget: Budget
    arch: Architecture
    settings: StudySettings
    timer: Timer

    def solve(self, law: PowerLaw) -> Widths:
        """Return the widths along a law at the budget.

        Raises:
            NoWidthsError: if no widths meet the budget.
        """
        arch, budget, settings = self.arch, self.budget, self.settings
        if not budget.metric.is_timed:
            return find_widths(budget, law, arch, settings)
        limits = limit_widths(budget, arch, settings)
        return self.timer.find(MeasuredBudget(arch, law, budget.metric, budget.limit, limits))


def with_fast_multiple(
    settings: StudySettings,
    budgets: Sequence[Budget],
    arch: Architecture,
    stored: Sequence[Mapping[str, Any]],
    timer: Timer,
) -> StudySettings:
    """Return the settings of a compression; at budgets in milliseconds they round widths.

    The multiple is that of the device (`find_multiple`), or less if a budget seems to need it. The
    user's own multiple has priority; a runtime on another device gets none.

    Args:
        arch: the trained network, with a latency model if a budget limits milliseconds.
        stored: settings of the studies that this compression continues. Their multiple is kept.
    """
    if settings.multiple_of is not None or not timer.runtime.is_here:
        return settings
    timed = [budget for budget in budgets if budget.metric.is_timed]
    known = [old["multiple_of"] for old in stored if "multiple_of" in old]
    if known:
        if isinstance(known[0], dict) and list(known[0]) == [LATENCY.name]:
            return settings.updated(multiple_of=known[0])
        if timed and known[0] is None:
            timer.progress.message(
                "the results so far in this folder have widths that are not rounded, and so will "
                "these: another folder rounds them"
            )
        return settings
    if not timed:
        return settings
    multiple = suit(arch, find_multiple(timer.compute, timer.runtime, timer.progress))
    while multiple > 1 and not _allows(multiple, timed, arch):
        multiple //= 2
    if multiple > 1:
        timer.progress.message(
            f"at budgets in milliseconds widths are multiples of {multiple}, which "
            f"{timer.runtime.name} computes fastest here"
        )
    return settings.updated(multiple_of={LATENCY.name: multiple})


def _allows(multiple: int, budgets: Sequence[Budget], arch: Architecture) -> bool:
    """Return whether the narrowest widths of a multiple are predicted to leave room in budgets."""
    least = np.maximum(multiple, arch.narrowest)
    return all(budget.metric.cost(arch)(least) <= _ROOM * budget.limit for budget in budgets)
