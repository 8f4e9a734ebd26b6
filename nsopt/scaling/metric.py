"""Metrics: what a budget limits, how it is parsed and formatted, and what networks cost in it."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nsopt.errors import NsoptError, unknown_name
from nsopt.scaling.cost import CostModel

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


class Costed(Protocol):
    """A family of networks with cost models, such as an `Architecture`."""

    def cost(self, metric: str) -> CostModel: ...


class Metric(ABC):
    """What a budget limits.

    A new metric implements `read` and `show` and is added to `METRICS`.

    Attributes:
        name: its name on the command line and in storage.
        unit: of a budget, as printed after a number.
    """

    name: str
    unit: str

    @property
    def noun(self) -> str:
        """What a budget limits, as reports call it."""
        return self.unit

    @abstractmethod
    def read(self, text: str) -> int | float:
        """Parse a budget, in `unit`. Raises NsoptError if `text` is not one."""

    @abstractmethod
    def show(self, budget: float) -> str:
        """Format a budget with its unit."""

    def cost(self, arch: Costed) -> CostModel:
        """Return the cost model of `arch`, which maps widths to a cost in `unit`."""
        return arch.cost(self.name)


@dataclass(frozen=True)
class Count(Metric):
    """An exact count: parameters, or multiply-accumulates (MACs) for one image."""

    name: str
    unit: str

    def read(self, text: str) -> int:
        """Parse `600k`, `2M`, `1.5M` or a plain number."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]?)", text.lower())
        if not match:
            hint = ", or give --metric latency" if text.endswith("ms") else ""
            raise NsoptError(f"{text!r} is not a budget: write 600000, 600k or 2M{hint}")
        return round(float(match[1]) * _UNITS[match[2]])

    def show(self, budget: float) -> str:
        return f"{budget:,.0f} {self.unit}"


@dataclass(frozen=True)
class Milliseconds(Metric):
    """The predicted latency of a batch of 100 images on one device."""

    name: str = "latency"
    unit: str = "ms"

    @property
    def noun(self) -> str:
        return self.name

    def read(self, text: str) -> float:
        """Parse `20ms`, `1.5 ms` or a plain number."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:ms)?", text.lower())
        if not match or not float(match[1]):
            raise NsoptError(f"{text!r} is not a latency: write 20ms")
        return float(match[1])

    def show(self, budget: float) -> str:
        return f"{budget:.4g} {self.unit}"


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
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]
