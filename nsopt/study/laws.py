"""The laws of methods, and the widths along them."""

from collections.abc import Iterable, Mapping, Sequence

from optuna.study import Study

from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.methods.base import LawInputs, Method
from nsopt.methods.registry import get_method
from nsopt.pruning.iterations import is_complete
from nsopt.samplers.neuralscale import NeuralScaleSampler
from nsopt.scaling.metric import LATENCY, get_metric
from nsopt.scaling.record import Iteration, describe_reach
from nsopt.storage import schema, trials
from nsopt.storage.trials import Point
from nsopt.study.session import Session
from nsopt.study.trained import train_base_network
from nsopt.study.tuned_law import read_scored_law, read_tuned_law
from nsopt.study.widths_in_time import correct_latency


class Laws:
    """The laws of the methods of a session.

    `read` updates them from the stored searches. Until a search stores more iterations, each law is
    made once, and solved once for a budget. Only a method that starts from a trained network has
    one law per seed.

    timed: whether networks are timed and stored until a budget in milliseconds holds as measured;
    otherwise it holds as predicted.
    """

    def __init__(self, session: Session, timed: bool = True) -> None:
        self._session = session
        self._timed = timed
        self._searches: dict[str, tuple[int, list[Iteration]]] = {}
        self._samplers: dict[tuple[str, str, float], NeuralScaleSampler] = {}

    def read(self, studies: Mapping[str, Study]) -> None:
        """Read the new iterations of the searches among `studies` (by kind)."""
        for kind, study in studies.items():
            if schema.is_search(kind):
                count = len(study.get_trials(deepcopy=False))
                known, _ = self._searches.get(kind, (None, []))
                if count != known:
                    self._searches[kind] = count, trials.read_iterations(study)
                    self._samplers.clear()

    def find_history(self, method: Method) -> Sequence[Iteration]:
        """Return the iterations of the search that a method uses."""
        _, found = self._searches.get(self._session.task.search_kind(method.price), (0, []))
        return found

    def is_ready(self, method: Method) -> bool:
        """Return whether a method can make its law, or can say why it has none."""
        settings, history = self._session.task.settings.search, self.find_history(method)
        return len(history) >= method.search_iterations(settings) or is_complete(history, settings)

    def find_sampler(self, point: Point) -> NeuralScaleSampler:
        """Return the sampler along the law of a point's method.

        Raises:
            NoWidthsError: if the method has no law, or no widths at this budget.
        """
        method, key = get_method(point.method), (point.method, point.metric, point.budget)
        if method.needs_trained_network:
            return self._make_sampler(method, point)
        if key not in self._samplers:
            self._samplers[key] = self._make_sampler(method, point)
        return self._samplers[key]

    def propose_widths(self, point: Point) -> tuple[int, ...]:
        """Return the widths at a point. Raises NoWidthsError as `find_sampler` does."""
        return self.find_sampler(point).propose(point.budget)

    def measure_extrapolation(self, point: Point) -> float | None:
        """Return the factor between a budget and the nearest end of the record behind its law.

        None if the budget is inside the record, or if the method has no record.
        """
        method = get_method(point.method)
        fitted = method.fitted_to(self.find_history(method))
        cost = get_metric(point.metric).cost(self._session.task.arch)
        return None if fitted is None else fitted.beyond(cost, point.budget)

    def describe_extrapolations(self, points: Iterable[Point]) -> list[str]:
        """Return a sentence for every budget at which a law is extrapolated."""
        sentences = []
        for point in points:
            factor = self.measure_extrapolation(point)
            if factor is not None:
                sentences.append(
                    f"{point.method}: {get_metric(point.metric).show(point.budget)} is "
                    f"{describe_reach(factor)}: nsopt extrapolates the law there"
                )
        return list(dict.fromkeys(sentences))

    def _make_sampler(self, method: Method, point: Point) -> NeuralScaleSampler:
        session, trained, tuned = self._session, None, None
        arch, settings = session.task.arch, session.task.settings
        cost = get_metric(point.metric).cost(arch)
        if method.needs_trained_network:
            trained = train_base_network(session, point.seed)
        if method.needs_tuned_law:
            tuned = read_tuned_law(session.workspace, session.task.name, point.metric)
        if method.needs_scored_law:
            name = session.task.name
            tuned = read_scored_law(session.workspace, name, point.metric, point.budget)
        inputs = LawInputs(arch, cost, point.budget, self.find_history(method), trained, tuned)
        with session.compute.computing():
            law = method.law(inputs)
        metric = get_metric(point.metric)
        eta = settings.eta if method.by_algorithm_3 else None
        limits = (
            *settings.rounding(point.metric),
            None if session.task.start is None else arch.base_widths,
        )
        if self._timed and eta is None and LATENCY in metric.parts:
            asked = MeasuredBudget(arch, law, metric, point.budget, *limits)
            cost = metric.cost(correct_latency(session, point.method, asked))
        multiple_of, min_width, max_width = limits
        return NeuralScaleSampler(
            law,
            cost,
            arch.layer_names,
            budgets=[point.budget],
            eta=eta,
            multiple_of=multiple_of,
            min_width=min_width,
            max_width=max_width,
        )
