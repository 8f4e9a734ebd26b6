"""Budgets as users write them: `macs=50%` of a network, `latency=5ms`, or both at once."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial

from nsopt.errors import NoWidthsError, NsoptError, shorten
from nsopt.models.architecture import Architecture
from nsopt.scaling.budget import AskedBudget, read_budget
from nsopt.scaling.cost import LinearCost
from nsopt.scaling.law import PowerLaw, uniform_curve
from nsopt.scaling.metric import LATENCY, MACS, Metric
from nsopt.scaling.solve import Limits, solve_widths
from nsopt.session.presets import StudySettings
from nsopt.storage import schema, trials


@dataclass(frozen=True)
class Budget:
    """The most that a network may cost.

    Attributes:
        word: the budget as the user wrote it.
        metric: what it limits.
        limit: in the unit of the metric.
    """

    word: str
    metric: Metric
    limit: int | float

    @property
    def scores_kind(self) -> str:
        """The kind of the study that scores widths at this budget."""
        return schema.scores_kind(self.metric.name, self.limit)

    def holds(self, trial: FrozenTrial) -> bool:
        point = trials.read_point(trial)
        return point is not None and (point.metric, point.budget) == (self.metric, self.limit)

    def limits(self, arch: Architecture, settings: StudySettings) -> Limits:
        """Return the limits of widths: rounded, filled, no wider than the base network."""
        return Limits(*settings.rounding(self.metric), max_width=arch.base_widths, fill=True)

    def solve(self, law: PowerLaw, arch: Architecture, settings: StudySettings) -> tuple[int, ...]:
        """Return the widths along a law at this budget.

        Raises:
            NoWidthsError: if no widths meet the budget.
        """
        limits = self.limits(arch, settings)
        fit = solve_widths(law, self.metric.cost(arch), self.limit, *limits, warn=False)
        return tuple(fit.widths.tolist())


def split_budgets(text: str) -> list[str]:
    """Split budgets of different networks: at semicolons, or at commas if there is no semicolon."""
    return [word.strip() for word in text.split(";" if ";" in text else ",") if word.strip()]


_WITHOUT_UNIT = re.compile(r"=(\d\d?)(?=,|$)")
CURVE = AskedBudget("curve", ())  # in place of budgets: shares of the MACs, from 90 % to 10 %


@contextmanager
def naming(budget: Budget, settings: StudySettings) -> Iterator[None]:
    """Name the budget and its rounding in the error that no widths fit it."""
    try:
        yield
    except NoWidthsError as error:
        multiple = np.max(settings.rounding(budget.metric)[0])
        rounded = "" if multiple == 1 else f" of multiples of {multiple}"
        share = _WITHOUT_UNIT.sub(r"=\1%", budget.word)
        meant = "" if share == budget.word else f"; a share is {share}"
        raise NoWidthsError(f"{budget.word}{rounded}: {error}{meant}") from None


def read_words(words: Sequence[str] | str) -> tuple[AskedBudget, ...]:
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
    asked: Sequence[AskedBudget], arch: Architecture, settings: StudySettings
) -> Sequence[AskedBudget]:
    """Return `asked`; in place of `CURVE` those shares of the MACs for which there are widths.

    Raises:
        NoWidthsError: if there are widths for none of them.
    """
    if CURVE not in asked:
        return asked
    shares = list[AskedBudget]()
    for share in read_words([f"macs={percentage}%" for percentage in range(90, 0, -10)]):
        try:
            check_budgets([share], arch, settings)
        except NoWidthsError:
            if not shares:
                raise
            break
        shares.append(share)
    return shares


def check_budgets(
    asked: Sequence[AskedBudget], arch: Architecture, settings: StudySettings
) -> None:
    """Raise the errors of budgets that need no measurement: see `budgets_of` and `Budget.solve`."""
    for budget in budgets_of([wanted for wanted in asked if not wanted.is_timed], arch):
        with naming(budget, settings):
            budget.solve(uniform_curve(arch.base_widths), arch, settings)


def check_time(asked: Sequence[AskedBudget], arch: Architecture, milliseconds: float) -> None:
    """Raise NsoptError for a budget that the base network meets, if it takes `milliseconds`."""
    macs = MACS.cost(arch)
    whole = LinearCost(LATENCY.name, macs, milliseconds / macs(arch.base_widths))
    budgets_of(asked, arch.with_latency(whole))


def budgets_of(asked: Sequence[AskedBudget], arch: Architecture) -> tuple[Budget, ...]:
    """Return the budgets of a network, each once.

    Raises:
        NsoptError: if the base network already meets one.
    """
    budgets = dict.fromkeys(Budget(wanted.word, *wanted.of(arch)) for wanted in asked)
    for budget in budgets:
        if budget.limit >= budget.metric.cost(arch)(arch.base_widths):
            parts = budget.metric.parts
            costs = " and ".join(part.show(part.cost(arch)(arch.base_widths)) for part in parts)
            raise NsoptError(
                f"{budget.word}: the network already costs only {costs}; give a smaller budget"
            )
    return tuple(budgets)
