"""Budgets in milliseconds of a compression: widths as measured, rounded to suit the device."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nsopt.compression.budgets import Budget
from nsopt.errors import NoWidthsError
from nsopt.latency.bisection import Widths
from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.latency.multiples import MORE, choose_multiples
from nsopt.latency.timer import Timer
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import PowerLaw, uniform_curve
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.session.presets import StudySettings


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

    def ask(self, law: PowerLaw) -> MeasuredBudget:
        """Return the question for `timer` which widths along a law fit the budget."""
        budget, limits = self.budget, self.budget.limits(self.arch, self.settings)
        beside = self.timer.runtime.is_here
        return MeasuredBudget(self.arch, law, budget.metric, budget.limit, limits, beside)

    def solve(self, law: PowerLaw) -> Widths:
        """Return the widths along a law at the budget; a second measurement confirms them.

        The multiples that nsopt chose suit uniform widths. Along this law half of them may fill the
        budget better: they are tried, and taken if they allow more MACs.
        """
        if not self.budget.metric.is_timed:
            return self.budget.solve(law, self.arch, self.settings)
        count, widths = MACS.cost(self.arch), self._confirm(law)
        finer = self._halve_multiples()
        if finer is not None:
            with suppress(NoWidthsError):
                if count(finer._estimate(law)) > MORE * count(widths):
                    widths = max(widths, finer._confirm(law), key=count)
        return widths

    def solve_candidate(self, law: PowerLaw) -> Widths:
        """Return the widths along one of many laws at the budget; few measurements are enough.

        Uniform widths are those that are fine-tuned, too, so that their score stands in the table.
        """
        if not self.budget.metric.is_timed:
            return self.budget.solve(law, self.arch, self.settings)
        if _is_uniform(law, self.arch):
            return self.solve(uniform_curve(self.arch.base_widths))
        return self._estimate(law)

    def _estimate(self, law: PowerLaw) -> Widths:
        return self.timer.solve(self.ask(law), is_careful=False).widths

    def _confirm(self, law: PowerLaw) -> Widths:
        return self.budget.solve(law, self.timer.correct(self.ask(law)), self.settings)

    def _halve_multiples(self) -> "Solver | None":
        """Return this with half of each multiple that nsopt chose; None without such multiples."""
        given = self.settings.multiple_of
        multiples = given.get(LATENCY.name) if isinstance(given, dict) else None
        if not isinstance(multiples, tuple | list) or max(multiples) == 1:
            return None
        halved = {LATENCY.name: tuple(max(1, multiple // 2) for multiple in multiples)}
        return replace(self, settings=self.settings.updated(multiple_of=halved))


def _is_uniform(law: PowerLaw, arch: Architecture) -> bool:
    """Return whether a law keeps the same share of every width."""
    shares = law.alpha / np.array(arch.base_widths)
    return bool(np.allclose(shares, shares[0]) and np.allclose(law.beta, law.beta[0]))


def with_fast_multiple(
    settings: StudySettings,
    budgets: Sequence[Budget],
    arch: Architecture,
    stored: Sequence[Mapping[str, Any]],
    timer: Timer,
) -> StudySettings:
    """Return the settings of a compression; at budgets in milliseconds they round widths.

    nsopt times which multiple allows most MACs (`choose_multiples`). The user's own multiple has
    priority; a runtime on another device gets none.

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
    law = uniform_curve(arch.base_widths)
    asked = [Solver(budget, arch, settings, timer).ask(law) for budget in timed]
    multiples = choose_multiples(arch, asked, timer)
    if max(multiples) > 1:
        timer.progress.message(
            f"at budgets in milliseconds widths are multiples of {max(multiples)}, less in narrow "
            f"layers: most MACs fit then, as timed in {timer.runtime.name}"
        )
    return settings.updated(multiple_of={LATENCY.name: multiples})
