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

CURVE = "curve"  # in place of budgets: shares of the MACs, from 90 % to 10 %
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


class _Limit(NamedTuple):
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


@contextmanager
def naming(budget: Budget, settings: StudySettings) -> Iterator[None]:
    """Name the budget and its rounding in the error that no widths fit it."""
    try:
        yield
    except NoWidthsError as error:
        multiple = np.max(settings.rounding(budget.metric)[0])
        rounded = "" if multiple == 1 else f" of multiples of {multiple}"
        raise NoWidthsError(f"{budget.word}{rounded}: {error}") from None


def check_words(words: Sequence[str]) -> None:
    """Raise NsoptError if there are no budgets, or an invalid one.

    A budget is `METRIC=LIMIT`, or several of these with commas.
    """
    if not words:
        raise NsoptError("give at least one budget, such as macs=50%")
    if list(words) == [CURVE]:
        return
    for word in words:
        if not isinstance(word, str):
            raise NsoptError(f"{shorten(word)} is not a budget: write a word such as 'macs=50%'")
        limits = _read_limits(word)
        if not all(limit.number for limit in limits):
            raise NsoptError(f"{shorten(word)}: a budget must be above 0")
        Joint.of([(limit.metric, limit.number) for limit in limits])


def expand_curve(
    words: Sequence[str], arch: Architecture, settings: StudySettings
) -> Sequence[str]:
    """Return `words`; in place of `curve` those shares of the MACs for which there are widths.

    Raises:
        NoWidthsError: if there are widths for none of them.
    """
    if list(words) != [CURVE]:
        return words
    found = list[str]()
    for share in range(90, 0, -10):
        try:
            check_budgets([f"macs={share}%"], arch, settings)
        except NoWidthsError:
            if not found:
                raise
            break
        found.append(f"macs={share}%")
    return found


def check_budgets(words: Sequence[str], arch: Architecture, settings: StudySettings) -> None:
    """Raise the errors of budgets that need no measurement: if they are invalid or have no widths.

    See `read_compression_budgets` and `Budget.solve`.
    """
    counted = [word for word in words if not limits_time([word])]
    for budget in read_compression_budgets(counted, arch):
        with naming(budget, settings):
            budget.solve(uniform_curve(arch.base_widths), arch, settings)


def limits_time(words: Sequence[str]) -> bool:
    """Return whether a budget limits milliseconds. Raises NsoptError if one is invalid."""
    return any(limit.metric.is_timed for word in words for limit in _read_limits(word))


def check_time(words: Sequence[str], arch: Architecture, milliseconds: float) -> None:
    """Raise NsoptError for a budget that the base network meets, if it takes `milliseconds`."""
    macs = MACS.cost(arch)
    whole = LinearCost(LATENCY.name, macs, milliseconds / macs(arch.base_widths))
    read_compression_budgets(words, arch.with_latency(whole))


def split_into_limits(word: str) -> list[tuple[Metric, str]]:
    """Return metrics and limits of a budget, as text. Raises NsoptError if it is invalid."""
    return split_limits(word, _EXAMPLE)


def read_compression_budgets(words: Sequence[str], arch: Architecture) -> tuple[Budget, ...]:
    """Return budgets for networks smaller than the base network.

    Args:
        words: `METRIC=LIMIT`, where a limit is a percentage of the base network's cost (`50%`) or a
            number in the unit of the metric. Commas join several limits of one network.

    Raises:
        NsoptError: for an invalid budget, or a budget that the base network already meets.
    """
    return tuple(dict.fromkeys(_read(word.strip(), arch) for word in words))


def _read_limits(word: str) -> list[_Limit]:
    limits = []
    for metric, text in split_into_limits(word):
        is_share = text.endswith("%")
        number = read_percentage(text) if is_share else metric.read(text)
        limits.append(_Limit(metric, number, is_share))
    return limits


def _read(word: str, arch: Architecture) -> Budget:
    limits = [(limit.metric, limit.for_network(arch)) for limit in _read_limits(word)]
    metric, limit = limits[0] if len(limits) == 1 else (Joint.of(limits), 1)
    if limit >= metric.cost(arch)(arch.base_widths):
        costs = " and ".join(part.show(part.cost(arch)(arch.base_widths)) for part, _ in limits)
        raise NsoptError(f"{word}: the network already costs only {costs}; give a smaller budget")
    return Budget(word, metric, limit)
