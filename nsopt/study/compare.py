"""Run a comparison: one Optuna study per method, with the same budgets and seeds for all."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from optuna.study import Study

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.methods.base import Method
from nsopt.progress import Progress
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.solve import solve_widths
from nsopt.session.durations import PlannedWork, list_searches, plan_training, tell_duration
from nsopt.session.other_workers import run_other_workers
from nsopt.session.searching import clear_finished, continue_searches
from nsopt.session.session import Session, start_session, warn_of_batch
from nsopt.session.start import keep_start
from nsopt.session.timing import Network, find_latencies
from nsopt.session.workspace import Workspace
from nsopt.storage import trials
from nsopt.storage.engine import missing_points
from nsopt.storage.trials import Point
from nsopt.study.comparison import Comparison
from nsopt.study.laws import Laws
from nsopt.study.worker import Worker

Points = Mapping[Method, Sequence[Point]]


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
        """Return the points without a settled trial.

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
    with start_session(comparison.subject, workspace, progress) as session:
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
            Worker(session, plan.laws).run_missing(plan.enqueue_missing)
        clear_finished(session)


def preview_comparison(
    comparison: Comparison, workspace: Workspace, progress: Progress
) -> dict[str, tuple[int, ...]]:
    """Say how long `run_comparison` would take. Nothing is written, and no network is trained.

    Returns:
        The widths that are known already, by a label of method and budget: those of methods that
        need no search, or whose search is stored.
    """
    with start_session(comparison.subject, workspace, progress) as session:
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
