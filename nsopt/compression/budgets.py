"""Budgets as users write them, `macs=50%` of a network or `latency=5ms`, and the widths at them.

Milliseconds hold as measured, with widths that suit the device.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsopt.errors import NoWidthsError, NsoptError, shorten
from nsopt.latency.budget import MeasuredBudget, Widths
from nsopt.latency.multiples import find_multiple, suit
from nsopt.latency.timer import Timer
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import PowerLaw, uniform_curve
from nsopt.scaling.metric import LATENCY, Budget, read_budget
from nsopt.scaling.solve import Limits, solve_widths
from nsopt.session.presets import StudySettings

CURVE = Budget("curve", ())  # in place of budgets: shares of the MACs, from 90 % to 10 %
_ROOM = 0.8  # of a budget: predictions are off by a tenth
_WITHOUT_UNIT = re.compile(r"=(\d\d?)(?=,|$)")


@dataclass(frozen=True, eq=False)
class Solver:
    """Finds the widths along laws at a budget, rounded, filled, no wider than the trained network.

    Attributes:
        arch: the trained network, with a latency model if the budget limits milliseconds.
        settings: they round widths.
        timer: needed if the budget limits milliseconds.
    """

    budget: Budget
    arch: Architecture
    settings: StudySettings
    timer: Timer | None = None

    def solve(self, law: PowerLaw) -> Widths:
        """Return the widths along a law at the budget.

        Raises:
            NoWidthsError: if no widths meet the budget.
        """
        metric, limit = self.budget.metric, self.budget.limit
        rounding = self.settings.rounding(metric)
        limits = Limits(*rounding, max_width=self.arch.base_widths, fill=True)
        try:
            if metric.is_timed:
                assert self.timer is not None
                return self.timer.find(MeasuredBudget(self.arch, law, metric, limit, limits))
            fit = solve_widths(law, metric.cost(self.arch), limit, *limits, warn=False)
        except NoWidthsError as error:
            word, multiple = self.budget.word, np.max(limits.multiple_of)
            rounded = "" if multiple == 1 else f" of multiples of {multiple}"
            share = _WITHOUT_UNIT.sub(r"=\1%", word)
            meant = "" if share == word else f"; a share is {share}"
            raise NoWidthsError(f"{word}{rounded}: {error}{meant}") from None
        return tuple(fit.widths.tolist())


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
    for known in (old["multiple_of"] for old in stored if "multiple_of" in old):
        is_fast = isinstance(known, dict) and list(known) == [LATENCY.name]
        return settings.updated(multiple_of=known) if is_fast else settings
    timed = [budget for budget in budgets if budget.metric.is_timed]
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


def split_budgets(text: str) -> list[str]:
    """Split budgets of different networks: at semicolons, or at commas if there is no semicolon."""
    return [word.strip() for word in text.split(";" if ";" in text else ",") if word.strip()]


def read_words(words: Sequence[str] | str) -> tuple[Budget, ...]:
    """Return what the user asks for. Raises NsoptError if there are no budgets, or an invalid one.

    Args:
        words: `METRIC=LIMIT`, where a limit is a percentage of the base network's cost (`50%`) or a
            number in the unit of the metric. Commas join several limits of one network. Or "curve".
            A single word needs no list.
    """
    if isinstance(words, str) and "," not in words and ";" not in words:
        words = [words]
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise NsoptError("budgets must be a list of words: ['macs=50%', 'latency=5ms']")
    if list(words) == [CURVE.word]:
        return (CURVE,)
    if not words:
        raise NsoptError("give at least one budget, such as macs=50%")
    for word in words:
        if not isinstance(word, str):
            raise NsoptError(f"{shorten(word)} is not a budget: write a word such as 'macs=50%'")
    if CURVE.word in words:
        raise NsoptError("'curve' stands for nine budgets: give it without others")
    return tuple(map(read_budget, words))


def expand_curve(
    asked: Sequence[Budget], arch: Architecture, settings: StudySettings
) -> Sequence[Budget]:
    """Return `asked`; in place of `CURVE` those shares of the MACs for which there are widths."""
    if CURVE not in asked:
        return asked
    shares = read_words([f"macs={percentage}%" for percentage in range(90, 0, -10)])
    return [share for share in shares if _has_widths(share, arch, settings)] or shares


def _has_widths(budget: Budget, arch: Architecture, settings: StudySettings) -> bool:
    try:
        check_budgets([budget], arch, settings)
    except NoWidthsError:
        return False
    return True


def check_budgets(asked: Sequence[Budget], arch: Architecture, settings: StudySettings) -> None:
    """Raise the errors of budgets that need no measurement: see `budgets_of` and `Solver.solve`."""
    for budget in budgets_of([wanted for wanted in asked if not wanted.is_timed], arch):
        Solver(budget, arch, settings).solve(uniform_curve(arch.base_widths))


def budgets_of(asked: Sequence[Budget], arch: Architecture) -> tuple[Budget, ...]:
    """Return the budgets of a network, each once.

    Raises:
        NsoptError: if the base network already meets one.
    """
    budgets = dict.fromkeys(wanted.at(arch) for wanted in asked)
    for budget in budgets:
        if budget.limit >= budget.metric.cost(arch)(arch.base_widths):
            parts = budget.metric.parts
            costs = " and ".join(part.show(part.cost(arch)(arch.base_widths)) for part in parts)
            raise NsoptError(
                f"{budget.word}: the network already costs only {costs}; give a smaller budget"
            )
    return tuple(budgets)
