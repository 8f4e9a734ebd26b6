"""Metrics, and budgets as users write them: `600k`, `macs=50%`, or `params=250k,macs=20M`.

A metric says what a budget limits, how it is parsed and formatted, and what networks cost in it.
Several budgets at once are a metric, too: `Joint`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, Self

from nsopt.errors import NsoptError, shorten
from nsopt.scaling.cost import CostModel, JointCost, name_limits, unknown_metric

_LARGEST = 1e18
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_EXAMPLE = "macs=50%, params=600k or latency=5ms"


class Costed(Protocol):
    """A family of networks with cost models, such as an `Architecture`."""

    def cost(self, metric: str) -> CostModel: ...


class Metric(ABC):
    """What a budget limits.

    A new metric implements `read` and `show` and is added to `METRICS`.

    Attributes:
        name: its name on the command line and in storage.
        unit: the unit of a budget, as printed after the number.
        is_timed: whether only a measurement tells if a network is within a budget.
    """

    name: str
    unit: str
    is_timed: bool = False

    @property
    def noun(self) -> str:
        """What a budget limits, as reports call it."""
        return self.unit

    @property
    def parts(self) -> "tuple[Metric, ...]":
        """The metrics that a budget limits: this one, or several at once."""
        return (self,)

    def limits_at(self, budget: float) -> "list[tuple[Metric, float]]":
        """Return each metric that a budget limits, with its limit."""
        return [(self, budget)]

    @abstractmethod
    def read(self, text: str) -> int | float:
        """Parse a budget in `unit`. Raises NsoptError if `text` is not a budget."""

    @abstractmethod
    def show(self, budget: float) -> str:
        """Format a budget with its unit."""

    def cost(self, arch: Costed) -> CostModel:
        """Return the cost model of `arch`, which maps widths to a cost in `unit`."""
        return arch.cost(self.name)


def _multiply(digits: str, unit: int) -> float:
    number = float(digits) * unit
    if number > _LARGEST:
        raise NsoptError(f"a budget of {shorten(digits)} is too large: give a smaller one")
    return number


@dataclass(frozen=True)
class Count(Metric):
    """An exact count: parameters, or multiply-accumulates (MACs) for one image."""

    name: str
    unit: str

    def read(self, text: str) -> int:
        """Parse `600k`, `2M`, `1.5M` or a plain number."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]?)", text.lower())
        if not match:
            hint = ", or for milliseconds latency=20ms" if text.endswith("ms") else ""
            raise NsoptError(f"{shorten(text)} is not a budget: write 600000, 600k or 2M{hint}")
        number = _multiply(match[1], _UNITS[match[2]])
        if 0 < number < 1:
            share = f"{100 * number:g}%"
            raise NsoptError(
                f"{text} {self.unit} are less than one: did you mean {share}? write a %"
            )
        return round(number)

    def show(self, budget: float) -> str:
        return f"{budget:,.0f} {self.unit}"


@dataclass(frozen=True)
class Milliseconds(Metric):
    """The latency of a batch of images on one device."""

    name: str = "latency"
    unit: str = "ms"
    is_timed: bool = True

    @property
    def noun(self) -> str:
        return self.name

    def read(self, text: str) -> float:
        """Parse `20ms`, `1.5 ms` or a plain number."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:ms)?", text.lower())
        if not match or not float(match[1]):
            raise NsoptError(f"{shorten(text)} is not a latency: write 20ms")
        return _multiply(match[1], 1)

    def show(self, budget: float) -> str:
        return f"{budget:.4g} {self.unit}"


@dataclass(frozen=True)
class Joint(Metric):
    """Several budgets at once. The cost of a network is the largest share of a budget that it uses.

    A budget in this metric is therefore a share of all these budgets, usually 1.

    Attributes:
        name: all budgets, in the form `params=250000,macs=20000000`.
        limits: each metric with its budget, in the order of `METRICS`.
    """

    name: str
    limits: tuple[tuple[Metric, int | float], ...]
    unit: str = "of the budgets"

    @property
    def is_timed(self) -> bool:  # type: ignore[override]
        return any(metric.is_timed for metric, _ in self.limits)

    @classmethod
    def of(cls, limits: Sequence[tuple[Metric, int | float]]) -> Self:
        """Return a metric with these limits. Raises NsoptError if a metric has two budgets."""
        order = list(METRICS)
        found = tuple(sorted(limits, key=lambda limit: order.index(limit[0].name)))
        names = [metric.name for metric, _ in found]
        for name in names:
            if names.count(name) > 1:
                raise NsoptError(
                    f"two budgets of {name} cannot hold at once: write a semicolon between budgets "
                    "of different networks"
                )
        return cls(name_limits([(metric.name, limit) for metric, limit in found]), found)

    @property
    def parts(self) -> tuple[Metric, ...]:
        return tuple(metric for metric, _ in self.limits)

    def limits_at(self, budget: float) -> list[tuple[Metric, float]]:
        return [(metric, budget * limit) for metric, limit in self.limits]

    def read(self, text: str) -> float:
        """Parse a share of the budgets."""
        try:
            return float(text)
        except ValueError:
            raise NsoptError(f"{shorten(text)} is no share of {self.name}: write 0.5") from None

    def show(self, budget: float) -> str:
        return " and ".join(metric.show(limit) for metric, limit in self.limits_at(budget))

    def cost(self, arch: Costed) -> JointCost:
        return JointCost(tuple((metric.cost(arch), limit) for metric, limit in self.limits))

    def binding(self, index: int | None) -> str | None:
        """Return the name of the metric at index `WidthFit.binding`, or None."""
        return None if index is None else self.parts[index].name


PARAMS = Count("params", "params")
MACS = Count("macs", "MACs")
LATENCY = Milliseconds()
COUNTED = (PARAMS, MACS)
METRICS: dict[str, Metric] = {metric.name: metric for metric in (*COUNTED, LATENCY)}


def counted_costs(arch: Costed, widths: Sequence[int]) -> dict[str, Any]:
    """Return a network's parameters and MACs, by metric."""
    return {metric.name: metric.cost(arch)(widths) for metric in COUNTED}


def get_metric(name: str) -> Metric:
    """Return the metric `name`. Raises NsoptError for an unknown one."""
    if "=" in name:
        return Joint.of([(metric, metric.read(limit)) for metric, limit in split_limits(name)])
    return get_single_metric(name)


def get_single_metric(name: str) -> Metric:
    """Return the metric `name`, not several at once. Raises NsoptError for an unknown one."""
    if name not in METRICS:
        raise unknown_metric(name)
    return METRICS[name]


def read_percentage(text: str) -> float:
    """Parse `50%` as 0.5. Raises NsoptError for anything else."""
    try:
        part = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        part = 0.0
    if not text.strip().endswith("%") or not 0 < part < 1:
        raise NsoptError(f"{shorten(text)}: a percentage must be between 0 and 100, such as 50%")
    return part


def split_limits(text: str) -> list[tuple[Metric, str]]:
    """Split `params=250k,macs=20M` into metrics and their limits as text.

    Raises:
        NsoptError: for a part without a known metric or a limit.
    """
    limits: list[tuple[Metric, str]] = []
    for word in text.split(","):
        name, equals, limit = (part.strip() for part in word.partition("="))
        if not equals or not limit:
            raise NsoptError(f"{shorten(word.strip())} is not a budget: write {_EXAMPLE}")
        limits.append((get_single_metric(name), limit))
    return limits


def format_ms(milliseconds: float) -> str:
    """Format `11.14`, or `0.068` below a millisecond."""
    return f"{milliseconds:.{2 if milliseconds >= 1 else 3}f}"


def short_number(value: float) -> str:
    """Format three digits and a unit: 450k, 2.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:  # smaller values could round to 1000 of the smaller unit
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


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
