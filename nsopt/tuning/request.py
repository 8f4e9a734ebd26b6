"""What a comparison was asked for: networks, data, methods, budgets, seeds, settings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from nsopt.data.images import ImageData, Splits
from nsopt.data.source import Source
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.scaling.curves import floor_widths, uniform_curve
from nsopt.scaling.solve import solve_widths
from nsopt.tuning import schema
from nsopt.tuning.settings import StudySettings
from nsopt.tuning.storage import open_storage

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class Size:
    """A budget in the unit of a metric; `ratio` is None where it was given as a number."""

    budget: int
    ratio: float | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """One comparison. storage: an Optuna URL; checkpoints: a folder for unfinished work.

    source: where `data` came from; data_dir: where it lies here; workers: local processes.
    """

    arch: Architecture
    data: ImageData
    source: Source
    data_dir: Path
    methods: tuple[str, ...]
    sizes: tuple[Size, ...]
    seeds: int
    metric: str
    settings: StudySettings
    storage: str
    checkpoints: Path
    workers: int = 1

    @cached_property
    def opened_storage(self) -> BaseStorage:
        """The storage, opened when it is first asked for; that makes it, too."""
        return open_storage(self.storage)

    def study_name(self, method: str) -> str:
        return schema.study_name(self.arch.name, self.data.name, self.settings.preset, method)

    @property
    def prefix(self) -> str:
        """What the names of all its studies begin with."""
        return self.study_name("").removesuffix("/")

    @property
    def subject(self) -> schema.Subject:
        return schema.Subject(
            arch=self.arch.name,
            data=self.data.name,
            classes=len(self.data.classes),
            image_size=self.data.image_size,
            channels=self.data.channels,
            layer_names=self.arch.layer_names,
            base_widths=self.arch.base_widths,
        )

    @cached_property
    def splits(self) -> Splits:
        """What trainings see."""
        return self.data.split(self.settings.training.val_fraction)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that a result depends on beside its point, as it comes back from storage."""
        return self.settings.model_dump(mode="json") | {"data": self.splits.fingerprint()}

    def points(self, method: str) -> list[schema.Point]:
        """The points of one method, size by size."""
        return [
            schema.Point(method, self.metric, size.budget, seed, size.ratio)
            for size in self.sizes
            for seed in range(self.seeds)
        ]


def parse_sizes(
    arch: Architecture,
    metric: str,
    ratios: str | None,
    budgets: str | None,
    default_ratios: Sequence[float],
) -> tuple[Size, ...]:
    """Sizes from the words of a command line, such as `0.25,2` or `600k,2M`."""
    if ratios is not None and budgets is not None:
        raise NsoptError("give --ratios or --budgets, not both")
    if budgets is not None:
        return sizes_of_budgets(arch, metric, [parse_budget(word) for word in words(budgets)])
    given = [parse_ratio(word) for word in words(ratios or "")]
    return sizes_of_ratios(arch, metric, given or default_ratios)


def words(text: str) -> list[str]:
    """The parts of a list separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def parse_budget(text: str) -> int:
    """`600k`, `2M`, `1.5M` or a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)", text.lower())
    if not match:
        raise NsoptError(f"{text!r} is not a budget: write 600000, 600k or 2M")
    return round(float(match[1]) * _UNITS[match[2]])


def parse_ratio(text: str) -> float:
    """A width ratio such as `0.25`."""
    try:
        return float(text)
    except ValueError:
        raise NsoptError(f"{text!r} is not a width ratio: write 0.25 or 2") from None


def sizes_of_ratios(arch: Architecture, metric: str, ratios: Sequence[float]) -> tuple[Size, ...]:
    """Budgets of uniform networks at width ratios; NsoptError for a ratio of 0 or less."""
    for ratio in ratios:
        if not 0 < ratio < float("inf"):
            raise NsoptError(f"a width ratio must be above 0, got {ratio:g}")
    cost = arch.cost(metric)
    return tuple(Size(int(cost(floor_widths(r, arch.base_widths))), r) for r in ratios)


def sizes_of_budgets(arch: Architecture, metric: str, budgets: Sequence[int]) -> tuple[Size, ...]:
    """Budgets as given; NsoptError for one that no widths can meet."""
    for budget in budgets:
        solve_widths(uniform_curve(arch.base_widths), arch.cost(metric), budget)
    return tuple(Size(budget) for budget in budgets)
