"""The laws of methods, the widths along them, and the trained networks that some start from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from optuna.study import Study
from torch import nn

from nsopt.compute.checkpoint import Checkpoint
from nsopt.compute.device import place, use_seed
from nsopt.errors import NoWidthsError, NsoptError
from nsopt.files import hold_lock
from nsopt.methods.base import LawInputs, Method
from nsopt.models.architecture import Architecture
from nsopt.pruning.search import is_complete
from nsopt.pruning.settings import SearchSettings
from nsopt.samplers.neuralscale import NeuralScaleSampler, Solver
from nsopt.scaling.algorithm3 import solve_widths_sgd
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import PARAMS, Metric
from nsopt.scaling.record import Iteration, describe_reach
from nsopt.scaling.solve import Limits, solve_widths
from nsopt.session.presets import MinWidth, Multiple, rounding_for
from nsopt.session.session import Session
from nsopt.session.subject import read_architecture
from nsopt.session.timing import correct_latency
from nsopt.session.workspace import Workspace
from nsopt.storage import schema, trials
from nsopt.storage.trials import Point
from nsopt.storage.urls import hide_password
from nsopt.tasks.task import Task
from nsopt.training.loop import identify_training


class Laws:
    """The laws of the methods of a session.

    `read` updates them from the stored searches. Widths are solved once per method and budget,
    until a search stores more iterations. A method that needs a trained network is solved anew for
    every trial.

    Args:
        timed: whether networks are timed and stored until a budget in milliseconds holds as
            measured; otherwise it holds as predicted.
    """

    def __init__(self, session: Session, timed: bool = True) -> None:
        self._session = session
        self._timed = timed
        self._searches: dict[str, tuple[int, list[Iteration]]] = {}
        self._samplers: dict[tuple[str, Metric, float], NeuralScaleSampler] = {}

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
        subject = self._session.subject
        _, history = self._searches.get(
            subject.search_kind(method.search_price(subject.settings.search)), (0, [])
        )
        return history

    def is_ready(self, method: Method) -> bool:
        """Return whether a method can make its law, or can say why it has none."""
        settings, history = self._session.subject.settings.search, self.find_history(method)
        return len(history) >= method.search_iterations(settings) or is_complete(history, settings)

    def find_sampler(self, method: Method, point: Point) -> NeuralScaleSampler:
        """Return the sampler along the law of a method, at one of its points.

        Raises:
            NoWidthsError: if the method has no law, or no widths at this budget.
        """
        key = (method.name, point.metric, point.budget)
        sampler = self._samplers.get(key) or self._make_sampler(method, point)
        if not method.needs_trained_network:
            self._samplers[key] = sampler
        return sampler

    def propose_widths(self, method: Method, point: Point) -> tuple[int, ...]:
        """Return the widths at a point. Raises NoWidthsError as `find_sampler` does."""
        return self.find_sampler(method, point).propose(point.budget)

    def measure_extrapolation(self, method: Method, point: Point) -> float | None:
        """Return the factor between a budget and the nearest end of the record behind its law.

        None if the budget is inside the record, or if the method has no record.
        """
        fitted = method.fitted_to(self.find_history(method))
        cost = point.metric.cost(self._session.subject.arch)
        return None if fitted is None else fitted.beyond(cost, point.budget)

    def describe_extrapolations(self, points: Mapping[Method, Sequence[Point]]) -> list[str]:
        """Return a sentence for every budget at which a law is extrapolated."""
        sentences = []
        for method, own in points.items():
            for point in own:
                factor = self.measure_extrapolation(method, point)
                if factor is not None:
                    sentences.append(
                        f"{method.name}: {point.metric.show(point.budget)} is "
                        f"{describe_reach(factor)}: nsopt extrapolates the law there"
                    )
        return list(dict.fromkeys(sentences))

    def describe_change(
        self, method: Method, points: Sequence[Point], study: Study
    ) -> Iterator[str]:
        """Yield a warning if the law has changed since networks of the study were trained."""
        names = self._session.subject.arch.layer_names
        done = trials.read_completed(study)
        trained = {trials.read_point(t): trials.read_widths(t, names) for t in done if t.params}
        with suppress(NoWidthsError):  # its trials fail, and say why
            changed = [
                point
                for point in points
                if point in trained and trained[point] != self.propose_widths(method, point)
            ]
            if changed:
                url = hide_password(self._session.workspace.url)
                yield (
                    f"{method.name}: {len(changed)} of {len(points)} points were trained with "
                    "another law and keep their results; to train them with the current law, first "
                    f"run optuna delete-study --study-name {study.study_name} --storage {url}"
                )

    def _make_sampler(self, method: Method, point: Point) -> NeuralScaleSampler:
        session = self._session
        arch, settings = session.subject.arch, session.subject.settings
        cost, history, trained = point.metric.cost(arch), self.find_history(method), None
        if method.needs_trained_network:
            trained = train_base_network(session, point.seed)
        law = method.law(LawInputs(arch, cost, point.budget, history, trained))
        fitted = method.fitted_to(history)
        eta = None if fitted is None else settings.eta
        rounding = (1, 1) if method.keeps_weights else settings.rounding(point.metric)
        inherits = session.subject.start is not None
        limits = Limits(*rounding, max_width=arch.base_widths if inherits else None, fill=inherits)
        is_timed = self._timed and eta is None and not method.keeps_weights
        if is_timed and point.metric.is_timed:
            study = session.open_study(method.name)
            corrected = correct_latency(session, study, law, point.metric, point.budget, limits)
            cost = point.metric.cost(corrected)
        solver: Solver = partial(solve_widths, **limits._asdict(), warn=False)
        if eta is not None:
            solver = partial(solve_widths_sgd, eta=eta, warn=False)
        return NeuralScaleSampler(
            law, cost, arch.layer_names, budgets=[point.budget], solver=solver
        )


def train_base_network(session: Session, seed: int) -> nn.Module:
    """Return the base network that is trained with `seed`, or the one that the subject starts from.

    A checkpoint keeps it during the comparison: later trials, and the same command after an
    interruption, read it instead of training again. If several processes need it, one trains it and
    the others wait.
    """
    subject, device = session.subject, session.compute.device
    if subject.start is not None:
        return subject.start
    widths, settings = subject.arch.base_widths, subject.settings.base_training_for(seed)
    folder = session.workspace.checkpoints(subject.study_name(schema.BASE))
    path = folder / f"seed{seed}.pt"
    kept = Checkpoint(path, identify_training(subject.arch, widths, session.supervision, settings))
    with hold_lock(path):
        weights = kept.load(device)
        if weights is not None:
            with use_seed(seed, device):
                model = place(subject.arch.build(widths), device, subject.arch.layout)
            model.load_state_dict(weights)
            return model
        name = f"training the network to start from, seed {seed}"
        checkpoint = path.with_stem(f"{path.stem}-training")
        model = session.train(widths, settings, checkpoint, name).model
        kept.save(model.state_dict())
    return model


@dataclass(frozen=True, eq=False)
class NetworkLaw:
    """A law and its network.

    Attributes:
        iteration: of the search to which the law is fitted, if any.
        studies: of its comparison, the law's own first; empty if the law is not stored.
    """

    law: ScalingLaw
    arch: Architecture
    iteration: Iteration | None = None
    studies: Sequence[Study] = ()

    def limits(
        self, metric: Metric, multiple_of: Multiple | None = None, min_width: MinWidth | None = None
    ) -> Limits:
        """Return the limits of its widths at budgets in a metric.

        Where the user gives no rounding, it is that of the comparison. What starts from a trained
        network is filled, and never wider than this.
        """
        # Searches store no settings of trainings.
        settings = map(schema.read_settings, self.studies)
        stored = next((values for values in settings if "multiple_of" in values), {})
        rounding = rounding_for(
            multiple_of or stored.get("multiple_of"), min_width or stored.get("min_width"), metric
        )
        if stored.get("start") is None:
            return Limits(*rounding)
        return Limits(*rounding, schema.read_task(self.studies[0]).base_widths, fill=True)


def read_stored_law(
    workspace: Workspace,
    name: str,
    method: Method,
    *,
    iteration: int | None = None,
    arch_name: str | None = None,
    task: Task | None = None,
) -> NetworkLaw:
    """Return a method's law in the comparison `name`: of an iteration, or of its own choice.

    For `arch_name` and `task` see `read_architecture`. Raises NsoptError if there is no such law.
    """
    studies, at = workspace.studies(name), hide_password(workspace.url)
    ours = {kind: study for kind, study in studies.items() if schema.read_settings(study)}
    if not ours:
        raise NsoptError(f"no search of {name} is stored at {at}: run one first")
    if method.needs_trained_network:
        raise NoWidthsError(
            f"{method.name} has one law per trained network, so none is stored: take another method"
        )
    first, *_ = ours.values()
    arch = read_architecture(schema.read_task(first), arch_name, task)
    # The settings of a search by another price name that price.
    usual = next((s for kind, s in ours.items() if schema.price_of_search(kind) is None), None)
    stored = schema.read_settings(usual or first)["search"]
    settings = SearchSettings(iterations=stored["iterations"])
    if usual is not None:
        settings = settings.updated(price=stored["price"])
    kind = schema.search_kind(method.price or settings.price, settings.price)
    history = trials.read_iterations(studies.get(kind))
    if method.search_iterations(settings) and not history:
        raise NsoptError(f"no {kind} of {name} is stored at {at}: run one first")
    if iteration is not None and iteration > len(history):
        raise NsoptError(f"{name} has no iteration {iteration}: take one up to {len(history)}")
    chosen = history[:iteration]
    cost = PARAMS.cost(arch)
    law = method.law(LawInputs(arch, cost, cost(arch.base_widths), chosen))
    own_first = [ours[kind] for kind in sorted(ours, key=lambda kind: kind != method.name)]
    return NetworkLaw(law, arch, method.fitted_to(chosen), own_first)
