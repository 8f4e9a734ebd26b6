"""Budgets as users write them: `600k`, `macs=50%`, or `params=250k,macs=20M` for one network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol, Self

from nsopt.errors import NsoptError, shorten
from nsopt.scaling.metric import Costed, Joint, Metric, read_percentage, split_limits


class _Base(Costed, Protocol):
    """A family of networks, such as an `Architecture`."""

    @property
    def base_widths(self) -> tuple[int, ...]: ...


class Limit(NamedTuple):
    """One limit: in the unit of the metric, or a share of what the base network costs."""

    metric: Metric
    number: float
    is_share: bool = False

    @classmethod
    def read(cls, metric: Metric, text: str) -> Self:
        """Parse `50%` or what the metric reads. Raises NsoptError for anything else, and for 0."""
        is_share = text.endswith("%")
        number = read_percentage(text) if is_share else metric.read(text)
        if not number:
            raise NsoptError(f"{shorten(text)}: a budget must be above 0")
        return cls(metric, number, is_share)

    def at(self, arch: _Base) -> Self:
        """Return the limit in the unit of the metric."""
        if not self.is_share:
            return self
        whole = self.metric.cost(arch)(arch.base_widths)
        exact = self.number * whole
        return type(self)(self.metric, exact if isinstance(whole, float) else int(exact))


@dataclass(frozen=True)
class Budget:
    """The most that a network may cost, as a user wrote it: one limit, or several at once."""

    word: str
    limits: tuple[Limit, ...]

    @property
    def is_timed(self) -> bool:
        """Whether it limits milliseconds."""
        return any(limit.metric.is_timed for limit in self.limits)

    @property
    def is_joint(self) -> bool:
        """Whether several limits hold at once."""
        return len(self.limits) > 1

    def at(self, arch: _Base) -> Self:
        """Return the budget with numbers in place of shares of what a base network costs."""
        return replace(self, limits=tuple(limit.at(arch) for limit in self.limits))

    @cached_property
    def metric(self) -> Metric:
        """What it limits. Read it, and `limit`, of a budget without shares."""
        if not self.is_joint:
            return self.limits[0].metric
        return Joint.of([(limit.metric, limit.number) for limit in self.limits])

    @property
    def limit(self) -> int | float:
        """The limit in the unit of the metric."""
        return 1 if self.is_joint else self.limits[0].number


def read_budget(word: str) -> Budget:
    """Parse a budget that names its metrics: `macs=50%`, or several that hold at once."""
    limits = [Limit.read(metric, text) for metric, text in split_limits(word)]
    Joint.of([(limit.metric, limit.number) for limit in limits])
    return Budget(word.strip(), tuple(limits))


def read_budgets(text: str | Sequence[str | float], metric: Metric) -> list[Budget]:
    """Parse budgets in `metric`, such as `600k,2M`, or budgets that name their metrics.

    `params=250k,macs=20M` limits one network twice. A semicolon separates the budgets of different
    networks: `params=250k,macs=20M; params=500k`.

    Args:
        text: all of it, or a list with one or more budgets in each part.
        metric: of budgets that name none.

    Raises:
        NsoptError: for an invalid budget.
    """
    if not isinstance(text, str):
        return [budget for part in text for budget in read_budgets(str(part), metric)]
    if "=" in text:
        return [read_budget(word) for word in text.split(";") if word.strip()]
    words = [word.strip() for word in text.split(",") if word.strip()]
    return [Budget(word, (Limit.read(metric, word),)) for word in words]
