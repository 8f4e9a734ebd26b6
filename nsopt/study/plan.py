"""The plan of a comparison: its points, and what is still to be done for them."""

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
from nsopt.study.comparison import Comparison, reference_budgets, reference_points
from nsopt.study.laws import Laws
from nsopt.study.session import Session
from nsopt.study.timing import latencies_of

Points = Mapping[Method, Sequence[Point]]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a comparison asks for.

    points: by method; laws: their widths, each solved once. Only the widths of a method that
    starts from a trained network stay open until its trials run.
    """

    session: Session
    comparison: Comparison
    laws: Laws
    points: Points

    def missing(self) -> Points:
        """Return the points that no trial has settled.

        Raises NsoptError if other settings wrote the storage.
        """
        stored = self._stored()
        return {
            method: missing_points(stored.get(method.name), own, trials.read_point)
            for method, own in self.points.items()
        }

    def check_widths(self) -> None:
        """Raise NoWidthsError if a method has no widths at one of the points that are missing."""
        for method, own in self.missing().items():
            if not method.needs_trained_network:
                for point in own:
                    self.laws.widths(point)

    def enqueue_missing(self) -> bool:
        """Let the missing points wait in their studies; return whether there were any.

        First time the networks whose widths are known, side by side.
        """
        missing = {method: own for method, own in self.missing().items() if own}
        studies = {method: self.session.open_study(method.name) for method in missing}
        networks = [
            (studies[method], self.laws.widths(point))
            for method, own in missing.items()
            if not method.needs_trained_network and self.laws.is_ready(method)
            for point in own
        ]
        if networks:
            self.session.progress.start("measuring latency", 1)
            latencies_of(self.session, list(dict.fromkeys(networks)))
        for method, own in missing.items():
            for point in own:
                trials.enqueue_point(studies[method], point)
        return bool(missing)

    def warnings(self) -> Iterator[str]:
        """Return what a user should know before anything is trained: where laws are extrapolated,
        and which methods were trained along laws that have changed since."""
        own = [point for points in self.points.values() for point in points]
        yield from self.laws.extrapolations(own)
        for method, study in self._stored().items():
            if method in self._by_name():
                yield from self._outdated(self._by_name()[method], study)

    def with_references(self) -> "Plan":
        """Return this plan with uniform networks of other sizes, if the comparison asks for them.

        They span the MACs and the latencies of the networks that are compared.
        """
        methods = self.comparison.methods
        own = [method for method in methods if method.name == baseline().name]
        others = [m for m in methods if not m.needs_trained_network and m not in own]
        if not own or not others or not self.comparison.references:
            return self
        budgets = self._reference_budgets([*own, *others])
        more = reference_points(self.comparison, budgets)
        return replace(self, points={**self.points, own[0]: [*self.points[own[0]], *more]})

    def _reference_budgets(self, methods: Sequence[Method]) -> Sequence[int]:
        """Chosen once for the same networks, and stored: latencies may be measured again."""
        networks = []
        for method in methods:
            study = self.session.open_study(method.name)
            with suppress(NoWidthsError):  # its trials fail, and say why
                points = self.comparison.points(method)
                widths = dict.fromkeys(self.laws.widths(point) for point in points)
                networks += [(study, each) for each in widths]
        macs = [MACS.cost(self.session.task.arch)(widths) for _, widths in networks]
        asked = [self.comparison.references, *macs]
        study = self.session.open_study(methods[0].name)
        budgets = schema.read_references(study, asked)
        if budgets is None:
            latencies = [found.median_ms for found in latencies_of(self.session, networks)]
            budgets = reference_budgets(self.comparison, macs, latencies)
            schema.write_references(study, asked, budgets)
        return budgets

    def _outdated(self, method: Method, study: Study) -> Iterator[str]:
        """Whether a method was trained along a law that has changed since, as a tuned one may."""
        own, names = self.points[method], self.session.task.arch.layer_names
        done = trials.read_completed(study)
        trained = {trials.read_point(t): trials.read_widths(t, names) for t in done if t.params}
        with suppress(NoWidthsError):  # its trials fail, and say why
            others = [p for p in own if p in trained and trained[p] != self.laws.widths(p)]
            if others:
                url = hide_password(self.session.workspace.url)
                yield (
                    f"{method.name}: {len(others)} of {len(own)} points were trained along another "
                    "law, and stay; to train them along the present one, first optuna delete-study "
                    f"--study-name {study.study_name} --storage {url}"
                )

    def _by_name(self) -> dict[str, Method]:
        return {m.name: m for m in self.points if not m.needs_trained_network}

    def _stored(self) -> dict[str, Study]:
        return self.session.task.stored_studies(self.session.workspace)


def make_plan(comparison: Comparison, session: Session) -> Plan:
    """Return the plan of a comparison, without the budgets at which a method has no widths to
    offer; the user hears of those."""
    points = {method: _supported(comparison, method, session) for method in comparison.methods}
    return Plan(session, comparison, Laws(session), points)


def _supported(comparison: Comparison, method: Method, session: Session) -> list[Point]:
    metric = comparison.metric
    if method.keeps_weights and session.task.start is None:
        raise NsoptError(f"{method.name} is a trained network: give its weights with --start")
    points, base = (
        comparison.points(method),
        metric.cost(session.task.arch)(session.task.arch.base_widths),
    )
    left_out = sorted({p.budget for p in points if not method.supports(p.budget, base)})
    if left_out:
        budgets = ", ".join(metric.show(budget) for budget in left_out)
        session.progress.message(
            f"{method.name} starts from a network of {metric.show(base)}: left out at {budgets}"
        )
    return [point for point in points if point.budget not in left_out]
