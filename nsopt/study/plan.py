"""The plan of a comparison: its points, and those that are still missing."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from optuna.study import Study

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.methods.base import Method
from nsopt.methods.registry import baseline
from nsopt.scaling.metric import MACS
from nsopt.storage import schema, trials
from nsopt.storage.queue import missing_points
from nsopt.storage.trials import Point
from nsopt.storage.urls import hide_password
from nsopt.study.comparison import Comparison, choose_reference_budgets, make_reference_points
from nsopt.study.laws import Laws
from nsopt.study.session import Session
from nsopt.study.timing import find_latencies

Points = Mapping[Method, Sequence[Point]]


@dataclass(frozen=True, eq=False)
class Plan:
    """The points of a comparison and their laws.

    Attributes:
        laws: solve each point once. The widths of methods that start from a trained network are
            only known when their trials run.
        points: by method.
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
        stored = self._read_studies()
        return {
            method: missing_points(stored.get(method.name), own, trials.read_point)
            for method, own in self.points.items()
        }

    def check_widths(self) -> None:
        """Raise NoWidthsError if a method has no widths at one of the missing points."""
        for method, own in self.find_missing().items():
            if not method.needs_trained_network:
                for point in own:
                    self.laws.propose_widths(point)

    def enqueue_missing(self) -> bool:
        """Enqueue the missing points in their studies; return whether there were any.

        Before that, time all networks with known widths side by side, unless each was timed.
        """
        missing = {method: own for method, own in self.find_missing().items() if own}
        if missing:
            ready = [m for m in self._by_name().values() if self.laws.is_ready(m)]
            self.session.progress.start("measuring latency", 1)
            find_latencies(self.session, self._propose_networks(ready))
        studies = {method: self.session.open_study(method.name) for method in missing}
        for method, own in missing.items():
            for point in own:
                trials.enqueue_point(studies[method], point)
        return bool(missing)

    def _propose_networks(self, methods: Sequence[Method]) -> list[tuple[Study, tuple[int, ...]]]:
        """Return the networks that methods propose, each with its study."""
        networks = []
        for method in methods:
            study = self.session.open_study(method.name)
            with suppress(NoWidthsError):  # its trials fail, and say why
                widths = dict.fromkeys(
                    self.laws.propose_widths(point) for point in self.points[method]
                )
                networks += [(study, each) for each in widths]
        return networks

    def list_warnings(self) -> Iterator[str]:
        """Yield warnings for the user before training starts.

        They name budgets at which a law is extrapolated, and methods whose law has changed since
        their networks were trained.
        """
        own = [point for points in self.points.values() for point in points]
        yield from self.laws.describe_extrapolations(own)
        for method, study in self._read_studies().items():
            if method in self._by_name():
                yield from self._warn_of_change(self._by_name()[method], study)

    @property
    def has_references(self) -> bool:
        """Whether there are networks that additional uniform ones can be compared with."""
        lawful = [m.name for m in self.comparison.methods if not m.needs_trained_network]
        others = len(lawful) > 1 and baseline().name in lawful
        return others and self.comparison.references > 0

    def with_references(self) -> "Plan":
        """Return this plan with additional uniform networks, if the comparison asks for them.

        Their MACs cover the MACs and the latencies of the other networks.
        """
        methods = self.comparison.methods
        if not self.has_references:
            return self
        own = [method for method in methods if method.name == baseline().name]
        others = [m for m in methods if not m.needs_trained_network and m not in own]
        budgets = self._find_reference_budgets([*own, *others])
        more = make_reference_points(self.comparison, budgets)
        return replace(self, points={**self.points, own[0]: [*self.points[own[0]], *more]})

    def _find_reference_budgets(self, methods: Sequence[Method]) -> Sequence[int]:
        """Return the stored budgets for these networks, or choose and store them.

        They are chosen once, because the latencies may be measured again.
        """
        networks = self._propose_networks(methods)
        macs = [MACS.cost(self.session.task.arch)(widths) for _, widths in networks]
        asked = [self.comparison.references, *macs]
        study = self.session.open_study(methods[0].name)
        budgets = schema.read_references(study, asked)
        if budgets is None:
            latencies = [found.median_ms for found in find_latencies(self.session, networks)]
            budgets = choose_reference_budgets(self.comparison, macs, latencies)
            schema.write_references(study, asked, budgets)
        return budgets

    def _warn_of_change(self, method: Method, study: Study) -> Iterator[str]:
        """Yield a warning if the law has changed since networks were trained."""
        own, names = self.points[method], self.session.task.arch.layer_names
        done = trials.read_completed(study)
        trained = {trials.read_point(t): trials.read_widths(t, names) for t in done if t.params}
        with suppress(NoWidthsError):  # its trials fail, and say why
            changed = [p for p in own if p in trained and trained[p] != self.laws.propose_widths(p)]
            if changed:
                url = hide_password(self.session.workspace.url)
                yield (
                    f"{method.name}: {len(changed)} of {len(own)} points were trained with another "
                    "law and keep their results; to train them with the current law, first run "
                    f"optuna delete-study --study-name {study.study_name} --storage {url}"
                )

    def _by_name(self) -> dict[str, Method]:
        return {m.name: m for m in self.points if not m.needs_trained_network}

    def _read_studies(self) -> dict[str, Study]:
        return self.session.task.stored_studies(self.session.workspace)


def make_plan(comparison: Comparison, session: Session) -> Plan:
    """Return the plan of a comparison without budgets that a method does not support.

    A message names the budgets that are left out.
    """
    points = {method: _select_points(comparison, method, session) for method in comparison.methods}
    return Plan(session, comparison, Laws(session), points)


def _select_points(comparison: Comparison, method: Method, session: Session) -> list[Point]:
    if method.keeps_weights and session.task.start is None:
        raise NsoptError(f"{method.name} is a trained network: give its weights with --start")
    points = comparison.points(method)
    for metric in dict.fromkeys(size.metric for size in comparison.sizes):
        base = metric.cost(session.task.arch)(session.task.arch.base_widths)
        own = {point.budget for point in points if point.metric == metric.name}
        left_out = sorted(budget for budget in own if not method.supports(budget, base))
        if left_out:
            budgets = ", ".join(metric.show(budget) for budget in left_out)
            session.progress.message(
                f"{method.name} starts from a network of {metric.show(base)}: it skips {budgets}"
            )
        points = [p for p in points if p.metric != metric.name or p.budget not in left_out]
    return points
