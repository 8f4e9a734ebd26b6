"""A comparison: methods, budgets and seeds, on one subject."""

from collections.abc import Sequence
from dataclasses import dataclass

from nsopt.errors import NsoptError
from nsopt.methods.base import Method
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.scaling.budget import Budget
from nsopt.scaling.law import floor_widths, uniform_curve
from nsopt.scaling.metric import Metric
from nsopt.scaling.solve import solve_widths
from nsopt.session.presets import MinWidth, Multiple, rounding_for
from nsopt.session.subject import Subject
from nsopt.session.timing import with_latency_if_needed
from nsopt.session.workspace import Workspace
from nsopt.settings import Price
from nsopt.storage.trials import Point


@dataclass(frozen=True)
class Size:
    """A budget in the unit of a metric. `ratio` is None if the user gave a number."""

    metric: Metric
    budget: int | float
    ratio: float | None = None


@dataclass(frozen=True)
class AskedRatio:
    """A width ratio, whose uniform network gives a budget.

    Raises:
        NsoptError: for a width ratio that is not above 0, or infinite.
    """

    metric: Metric
    ratio: float
    is_joint = False

    def __post_init__(self) -> None:
        if not 0 < self.ratio < float("inf"):
            raise NsoptError(f"a width ratio must be above 0 and finite, got {self.ratio:g}")

    @property
    def is_timed(self) -> bool:
        return self.metric.is_timed

    def at(self, arch: Architecture) -> Size:
        widths = floor_widths(self.ratio, arch.base_widths)
        return Size(self.metric, self.metric.cost(arch)(widths), self.ratio)


Asked = Sequence[Budget | AskedRatio]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every method at every size with `seeds` seeds, from that of the settings on."""

    subject: Subject
    methods: tuple[Method, ...]
    sizes: tuple[Size, ...]
    seeds: int

    @property
    def searches(self) -> dict[Price, int]:
        """The number of iterations that the methods need, by price.

        Raises:
            NsoptError: if a method needs more iterations than the search runs.
        """
        subject, needed = self.subject, dict[Price, int]()
        for method in self.methods:
            price = method.search_price(subject.settings.search)
            iterations = method.search_iterations(subject.settings.search)
            needed[price] = max(needed.get(price, 0), iterations)
        return {price: iterations for price, iterations in needed.items() if iterations}

    def points(self, method: Method) -> list[Point]:
        """Return the points of a method, size by size."""
        first = self.subject.settings.training.seed
        return [
            Point(method.name, size.metric, size.budget, seed, size.ratio)
            for size in self.sizes
            for seed in range(first, first + self.seeds)
        ]


def settle_sizes(
    subject: Subject, asked: Asked, workspace: Workspace, progress: Progress, timed: bool = True
) -> tuple[Subject, tuple[Size, ...]]:
    """Return a subject, with a latency model if a budget is in milliseconds, and its sizes.

    Arguments and errors are those of `make_sizes`. Algorithm 3 times no networks.
    """
    is_timed = any(size.is_timed for size in asked)
    subject = with_latency_if_needed(subject, is_timed, workspace, progress)
    rounding = subject.settings.multiple_of, subject.settings.min_width
    timed = timed and subject.settings.eta is None
    return subject, make_sizes(subject.arch, asked, *rounding, timed)


def make_sizes(
    arch: Architecture,
    asked: Asked,
    multiple_of: Multiple | None,
    min_width: MinWidth | None,
    timed: bool = True,
) -> tuple[Size, ...]:
    """Return the sizes that a user asks for, each once.

    Args:
        timed: whether networks will be timed for budgets in milliseconds; predicted milliseconds
            then decide nothing.

    Raises:
        NoWidthsError: if no widths, rounded as `solve_widths` does, meet one of the budgets.
        NsoptError: if there are neither ratios nor budgets.
    """
    if not asked:
        raise NsoptError("ratios and budgets are empty: give at least one")
    once = dict[tuple[Metric, float], Size]()
    for found in (wanted.at(arch) for wanted in asked):
        size = found if isinstance(found, Size) else Size(found.metric, found.limit)
        once.setdefault((size.metric, size.budget), size)
    curve, sizes = uniform_curve(arch.base_widths), tuple(once.values())
    for size in sizes:
        rounding = rounding_for(multiple_of, min_width, size.metric)
        limits = [(size.metric, size.budget)]
        if timed and size.metric.is_timed:
            limits = [pair for pair in size.metric.limits_at(size.budget) if not pair[0].is_timed]
        for limited, budget in limits:
            solve_widths(curve, limited.cost(arch), budget, *rounding)
    return sizes
