"""Budgets as users write them: `macs=50%` of a network, `latency=5ms`, or both at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from optuna.trial import FrozenTrial

from nsopt.errors import NoWidthsError, NsoptError, shorten
from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import LinearCost
from nsopt.scaling.law import PowerLaw, uniform_curve
from nsopt.scaling.metric import LATENCY, MACS, Joint, Metric, read_percentage, split_limits
from nsopt.scaling.solve import Limits, solve_widths
from nsopt.session.presets import StudySettings
from nsopt.storage import schema, trials

_EXAMPLE = "macs=50%, params=600k or latency=5ms"


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
    def shown(self) -> str:
        """The limit with its unit."""
        return self.metric.show(self.limit)

    @property
    def scores_kind(self) -> str:
        """The kind of the study that scores widths at this budget."""
        return schema.scores_kind(self.metric.name, self.limit)

    def holds(self, trial: FrozenTrial) -> bool:
        """Return whether a trial ran at this budget."""
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


class AskedLimit(NamedTuple):
    """One limit: in the unit of the metric, or a share of what the base network costs."""

    metric: Metric
    number: float
    is_share: bool

    def for_network(self, arch: Architecture) -> int | float:
        """Return the limit in the unit of the metric."""
        if not self.is_share:
            return self.number
        whole = self.metric.cost(arch)(arch.base_widths)
        exact = self.number * whole
        return exact if isinstance(whole, float) else int(exact)


@dataclass(frozen=True)
class AskedBudget:
    """A budget as a user asks for it, which may depend on what the base network costs.

    Attributes:
        word: as the user wrote it.
        limits: of one network; empty for `CURVE`.
    """

    word: str
    limits: tuple[AskedLimit, ...]

    @property
    def is_timed(self) -> bool:
        """Whether it limits milliseconds."""
        return any(limit.metric.is_timed for limit in self.limits)

    def for_network(self, arch: Architecture) -> Budget:
        """Return the budget. Raises NsoptError if the base network already meets it."""
        limits = [(limit.metric, limit.for_network(arch)) for limit in self.limits]
        metric, limit = limits[0] if len(limits) == 1 else (Joint.of(limits), 1)
        if limit >= metric.cost(arch)(arch.base_widths):
            costs = " and ".join(part.show(part.cost(arch)(arch.base_widths)) for part, _ in limits)
            raise NsoptError(
                f"{self.word}: the network already costs only {costs}; give a smaller budget"
            )
        return Budget(self.word, metric, limit)


CURVE = AskedBudget("curve", ())  # in place of budgets: shares of the MACs, from 90 % to 10 %


@contextmanager
def naming(budget: Budget, settings: StudySettings) -> Iterator[None]:
    """Name the budget and its rounding in the error that no widths fit it."""
    try:
        yield
    except NoWidthsError as error:
        multiple = np.max(settings.rounding(budget.metric)[0])
        rounded = "" if multiple == 1 else f" of multiples of {multiple}"
        raise NoWidthsError(f"{budget.word}{rounded}: {error}") from None


def read_words(words: Sequence[str]) -> tuple[AskedBudget, ...]:
    """Return what the user asks for. Raises NsoptError if there are no budgets, or an invalid one.

    Args:
        words: `METRIC=LIMIT`, where a limit is a percentage of the base network's cost (`50%`) or a
            number in the unit of the metric. Commas join several limits of one network. Or "curve".
    """
    if isinstance(words, str) and words == CURVE.word:
        return (CURVE,)
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise NsoptError("budgets must be a list of words: ['macs=50%', 'latency=5ms']")
    if list(words) == [CURVE.word]:
        return (CURVE,)
    if not words:
        raise NsoptError("give at least one budget, such as macs=50%")
    return tuple(map(_read, words))


def _read(word: str) -> AskedBudget:
    if not isinstance(word, str):
        raise NsoptError(f"{shorten(word)} is not a budget: write a word such as 'macs=50%'")
    limits = []
    for metric, text in split_limits(word, _EXAMPLE):
        is_share = text.endswith("%")
        number = read_percentage(text) if is_share else metric.read(text)
        limits.append(AskedLimit(metric, number, is_share))
    if not all(limit.number for limit in limits):
        raise NsoptError(f"{shorten(word)}: a budget must be above 0")
    Joint.of([(limit.metric, limit.number) for limit in limits])
    return AskedBudget(word.strip(), tuple(limits))


def expand_curve(
    asked: Sequence[AskedBudget], arch: Architecture, settings: StudySettings
) -> Sequence[AskedBudget]:
    """Return `asked`; in place of `CURVE` those shares of the MACs for which there are widths.

    Raises:
        NoWidthsError: if there are widths for none of them.
    """
    if CURVE not in asked:
        return asked
    found = list[AskedBudget]()
    for share in read_words([f"macs={percentage}%" for percentage in range(90, 0, -10)]):
        try:
            check_budgets([share], arch, settings)
        except NoWidthsError:
            if not found:
                raise
            break
        found.append(share)
    return found


def check_budgets(
    asked: Sequence[AskedBudget], arch: Architecture, settings: StudySettings
) -> None:
    """Raise the errors of budgets that need no measurement.

    See `AskedBudget.for_network` and `Budget.solve`.
    """
    for budget in budgets_of([each for each in asked if not each.is_timed], arch):
        with naming(budget, settings):
            budget.solve(uniform_curve(arch.base_widths), arch, settings)


def check_time(asked: Sequence[AskedBudget], arch: Architecture, milliseconds: float) -> None:
    """Raise NsoptError for a budget that the base network meets, if it takes `milliseconds`."""
    macs = MACS.cost(arch)
    whole = LinearCost(LATENCY.name, macs, milliseconds / macs(arch.base_widths))
    budgets_of(asked, arch.with_latency(whole))


def budgets_of(asked: Sequence[AskedBudget], arch: Architecture) -> tuple[Budget, ...]:
    """Return the budgets of a network, each once: see `AskedBudget.for_network`."""
    return tuple(dict.fromkeys(each.for_network(arch) for each in asked))
