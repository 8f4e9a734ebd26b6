"""Run a comparison: one Optuna study per method, with the same budgets and seeds for all.

`make_comparison` turns what a user requests into budgets that widths can meet; a `Plan` knows which
points are missing, and `run_comparison` searches and trains them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from optuna.study import Study

from nsopt.data.images import ImageData
from nsopt.errors import NoWidthsError, NsoptError
from nsopt.methods.base import Method
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.scaling.law import floor_widths, uniform_curve
from nsopt.scaling.metric import Budget, Metric, get_metric, read_budgets
from nsopt.scaling.solve import solve_widths
from nsopt.session.presets import MinWidth, Multiple, StudySettings, rounding_for
from nsopt.session.runner import (
    Network,
    find_latencies,
    time_unsure,
    with_latency_if_needed,
)
from nsopt.session.searching import (
    PlannedWork,
    clear_finished,
    continue_searches,
    list_searches,
    plan_training,
    tell_duration,
)
from nsopt.session.session import (
    Session,
    keep_start,
    run_other_workers,
    start_session,
    warn_of_batch,
)
from nsopt.session.subject import Subject, check_trains, complete
from nsopt.session.workspace import Workspace
from nsopt.settings import Price
from nsopt.storage import trials
from nsopt.storage.engine import missing_points, run_missing
from nsopt.storage.trials import Point
from nsopt.study.laws import Laws, Worker
from nsopt.tasks.task import Task

Points = Mapping[Method, Sequence[Point]]


@dataclass(frozen=True)
class Size:
    """A budget in the unit of a metric. `ratio` is None if the user gave a number."""

    metric: Metric
    budget: int | float
    ratio: float | None = None


@dataclass(frozen=True)
class WidthRatio:
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


Requests = Sequence[Budget | WidthRatio]


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


def read_requests(
    metric: str, ratios: Sequence[float], budgets: Sequence[float | str] | str | None
) -> Requests:
    """Return what a user requests: budgets, or else ratios.

    Raises:
        NsoptError: for invalid ones, or if there are none.
    """
    limited = get_metric(metric)
    requested: Requests = [WidthRatio(limited, ratio) for ratio in ratios]
    requested = requested if budgets is None else read_budgets(budgets, limited)
    if not requested:
        raise NsoptError("ratios and budgets are empty: give at least one")
    return requested


def make_comparison(
    arch: Architecture,
    data: Task | ImageData,
    methods: tuple[Method, ...],
    settings: StudySettings,
    budgets: Sequence[float | str] | str | None,
    workspace: Workspace,
    progress: Progress,
    timed: bool = True,
) -> Comparison:
    """Return a comparison of methods, with sizes that widths can meet: see `nsopt.compare`."""
    requested = read_requests(settings.metric, settings.ratios, budgets)
    check_trains(settings)
    if settings.eta is not None and any(size.is_joint for size in requested):
        raise NsoptError("Algorithm 3 takes one budget at a time: leave eta out")
    for method in methods:
        method.search_iterations(settings.search)
    subject = complete(Subject.of(arch, data, settings), workspace, progress)
    subject, sizes = find_sizes(subject, requested, workspace, progress, timed)
    return Comparison(subject, methods, sizes, settings.seeds)


def find_sizes(
    subject: Subject,
    requested: Requests,
    workspace: Workspace,
    progress: Progress,
    timed: bool = True,
) -> tuple[Subject, tuple[Size, ...]]:
    """Return a subject, with a latency model if a budget is in milliseconds, and its sizes.

    Arguments and errors are those of `make_sizes`. Algorithm 3 times no networks.
    """
    is_timed = any(size.is_timed for size in requested)
    subject = with_latency_if_needed(subject, is_timed, workspace, progress)
    rounding = subject.settings.multiple_of, subject.settings.min_width
    timed = timed and subject.settings.eta is None
    return subject, make_sizes(subject.arch, requested, *rounding, timed)


def make_sizes(
    arch: Architecture,
    requested: Requests,
    multiple_of: Multiple | None,
    min_width: MinWidth | None,
    timed: bool = True,
) -> tuple[Size, ...]:
    """Return the sizes that a user requests, each once.

    Args:
        timed: whether networks will be timed for budgets in milliseconds; predicted milliseconds
            then decide nothing.

    Raises:
        NoWidthsError: if no widths, rounded as `solve_widths` does, meet one of the budgets.
    """
    once = dict[tuple[Metric, float], Size]()
    for found in (wanted.at(arch) for wanted in requested):
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


@dataclass(frozen=True, eq=False)
class Plan:
    """The points of a comparison and their laws.

    Attributes:
        laws: solve each point once. The widths of methods that start from a trained network are
            only known when their trials run.
    """

    session: Session
    comparison: Comparison
    laws: Laws
    points: Points

    def find_missing(self) -> Points:
        """Return the points without a finished or waiting trial.

        Raises:
            NsoptError: if other settings wrote the storage.
        """
        stored = self.session.subject.stored_studies(self.session.workspace)
        return {
            method: missing_points(stored.get(method.name), points, trials.read_point)
            for method, points in self.points.items()
        }

    def read_laws(self) -> list[str]:
        """Read the laws of finished searches; return warnings for the user.

        They name budgets at which a law is extrapolated, and methods whose law has changed since
        their networks were trained.
        """
        studies = self.session.subject.stored_studies(self.session.workspace)
        self.laws.read(studies)
        warnings = self.laws.describe_extrapolations(self.points)
        for method in self._methods_with_law:
            if method.name in studies:
                points = self.points[method]
                warnings += self.laws.describe_change(method, points, studies[method.name])
        return warnings

    def check_widths(self, points: Points) -> None:
        """Raise NoWidthsError if a method has no widths at one of the points."""
        for method in self._methods_with_law:
            for point in points[method]:
                try:
                    self.laws.propose_widths(method, point)
                except NoWidthsError as error:
                    raise NoWidthsError(f"{method.name}: {error}") from None

    def enqueue_missing(self) -> bool:
        """Enqueue the missing points in their studies; return whether there were any.

        Before that, time all networks with known widths side by side, unless each was timed.
        """
        missing = {method: points for method, points in self.find_missing().items() if points}
        if not missing:
            return False
        methods = *missing, *self._methods_with_law
        studies = self.session.open_studies(method.name for method in methods)
        find_latencies(self.session, self._propose_networks(studies))
        for method, points in missing.items():
            for point in points:
                trials.enqueue_point(studies[method.name], point)
        return True

    def _propose_networks(self, studies: Mapping[str, Study]) -> list[Network]:
        """Return the networks of the methods whose law is known, each with its study."""
        networks = list[Network]()
        for method in filter(self.laws.is_ready, self._methods_with_law):
            with suppress(NoWidthsError):  # its trials fail, and say why
                proposed = dict.fromkeys(
                    self.laws.propose_widths(method, point) for point in self.points[method]
                )
                networks += [(studies[method.name], widths) for widths in proposed]
        return networks

    @property
    def _methods_with_law(self) -> list[Method]:
        """The methods whose widths are known before their trials run."""
        return [method for method in self.points if not method.needs_trained_network]


def run_comparison(comparison: Comparison, workspace: Workspace, progress: Progress) -> None:
    """Run the searches that the methods need, then train and measure every missing point.

    Every result is stored at once, so that the same call continues after an interruption. If there
    are other workers, points are enqueued before the search begins, which gives the workers
    something to do. Raises NsoptError for invalid requests, before anything is written.
    """
    searches = comparison.searches
    session = start_session(comparison.subject, workspace, progress)
    plan = make_plan(comparison, session)
    missing = plan.find_missing()
    left, total = (sum(map(len, points.values())) for points in (missing, plan.points))
    progress.overall(total - left, total)
    if left:
        warn_of_batch(session, [size.metric for size in comparison.sizes])
        tell_duration(session, list_work(plan, missing))
    keep_start(comparison.subject, workspace)
    if workspace.shared:
        plan.enqueue_missing()
    with run_other_workers(session):
        continue_searches(session, searches)
        for warning in plan.read_laws():
            progress.warning(warning)
        if not workspace.shared:
            plan.check_widths(missing)
        run_missing(plan.enqueue_missing, Worker(session, plan.laws).work)
    if left and workspace.workers > 1:
        time_unsure(session)
    clear_finished(session)


def preview_comparison(
    comparison: Comparison, workspace: Workspace, progress: Progress
) -> dict[str, tuple[int, ...]]:
    """Say how long `run_comparison` would take. Nothing is written, and no network is trained.

    Returns:
        The widths that are known already, by a label of method and budget: those of methods that
        need no search, or whose search is stored.
    """
    session = start_session(comparison.subject, workspace, progress)
    plan = make_plan(comparison, session, timed=False)
    tell_duration(session, list_work(plan, plan.find_missing()))
    plan.laws.read(session.studies())
    return {
        f"{method.name} {point.size}": plan.laws.propose_widths(method, point)
        for method, points in plan.points.items()
        if plan.laws.is_ready(method) and not method.needs_trained_network
        for point in points
    }


def make_plan(comparison: Comparison, session: Session, timed: bool = True) -> Plan:
    """Return the plan of a comparison without budgets that a method does not support.

    Messages name the budgets that are left out. `timed` is that of `Laws`. Raises NsoptError for a
    method that lacks what it starts from.
    """
    points = {method: _select_points(comparison, method, session) for method in comparison.methods}
    return Plan(session, comparison, Laws(session, timed), points)


def _select_points(comparison: Comparison, method: Method, session: Session) -> list[Point]:
    if method.keeps_weights and session.subject.start is None:
        raise NsoptError(f"{method.name} is a trained network: give its weights with start=")
    points = comparison.points(method)
    for metric in dict.fromkeys(size.metric for size in comparison.sizes):
        base = metric.cost(session.subject.arch)(session.subject.arch.base_widths)
        budgets = {point.budget for point in points if point.metric == metric}
        left_out = sorted(budget for budget in budgets if not method.supports(budget, base))
        if left_out:
            skipped = ", ".join(metric.show(budget) for budget in left_out)
            session.progress.message(
                f"{method.name} starts from a network of {metric.show(base)}: it skips {skipped}"
            )
        points = [p for p in points if p.metric != metric or p.budget not in left_out]
    return points


def list_work(plan: Plan, missing: Points) -> Iterator[PlannedWork]:
    """Yield the missing searches, and nsopt's trainings of networks as large as uniform ones."""
    session, subject = plan.session, plan.session.subject
    arch, settings = subject.arch, subject.settings
    yield from list_searches(session, plan.comparison.searches)
    for method, points in missing.items() if subject.trainer is None else ():
        training = settings.fine_tuning_for if method.inherits_weights else settings.training_for
        for point in () if method.keeps_weights else points:
            with suppress(NoWidthsError):  # measured milliseconds may allow some
                cost = point.metric.cost(arch)
                fit = solve_widths(uniform_curve(arch.base_widths), cost, point.budget)
                widths = tuple(fit.widths.tolist())
                yield plan_training(session, training(point.seed), widths, "trainings")
        for seed in {p.seed for p in points if method.needs_trained_network and not subject.start}:
            base = settings.base_training_for(seed)
            yield plan_training(session, base, arch.base_widths, "trainings")
