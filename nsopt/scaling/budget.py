"""Budgets as users write them: `600k`, `macs=50%`, or `params=250k,macs=20M` for one network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from nsopt.errors import NsoptError, shorten
from nsopt.scaling.metric import Costed, Joint, Metric, read_percentage, split_limits


class _Base(Costed, Protocol):
    """A family of networks, such as an `Architecture`."""

    @property
    def base_widths(self) -> tuple[int, ...]: ...


class AskedLimit(NamedTuple):
    """One limit: in the unit of the metric, or a share of what the base network costs."""

    metric: Metric
    number: float
    is_share: bool

    @classmethod
    def read(cls, metric: Metric, text: str) -> Self:
        """Parse `50%` or what the metric reads. Raises NsoptError for anything else, and for 0."""
        is_share = text.endswith("%")
        number = read_percentage(text) if is_share else metric.read(text)
        if not number:
            raise NsoptError(f"{shorten(text)}: a budget must be above 0")
        return cls(metric, number, is_share)

    def of(self, arch: _Base) -> int | float:
        """Return the limit in the unit of the metric."""
        if not self.is_share:
            return self.number
        whole = self.metric.cost(arch)(arch.base_widths)
        exact = self.number * whole
        return exact if isinstance(whole, float) else int(exact)


@dataclass(frozen=True)
class AskedBudget:
    """A budget as a user wrote it, whose limits may depend on what the base network costs."""

    word: str
    limits: tuple[AskedLimit, ...]

    @property
    def is_timed(self) -> bool:
        """Whether it limits milliseconds."""
        return any(limit.metric.is_timed for limit in self.limits)

    @property
    def is_joint(self) -> bool:
        """Whether several limits hold at once."""
        return len(self.limits) > 1

    def of(self, arch: _Base) -> tuple[Metric, int | float]:
        """Return the metric and the limit in its unit, for networks of this architecture."""
        limits = [(limit.metric, limit.of(arch)) for limit in self.limits]
        return limits[0] if len(limits) == 1 else (Joint.of(limits), 1)


def read_budget(word: str) -> AskedBudget:
    """Parse a budget that names its metrics: `macs=50%`, or several that hold at once."""
    limits = [AskedLimit.read(metric, text) for metric, text in split_limits(word)]
    Joint.of([(limit.metric, limit.number) for limit in limits])
    return AskedBudget(word.strip(), tuple(limits))


def read_budgets(text: str | Sequence[str | float], metric: Metric) -> list[AskedBudget]:
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
    return [AskedBudget(word, (AskedLimit.read(metric, word),)) for word in words]
