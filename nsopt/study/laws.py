"""The laws of methods, the widths along them, and the worker that trains these networks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from torch import nn

from nsopt.compute.checkpoint import Checkpoint
from nsopt.compute.device import place, use_seed
from nsopt.errors import NoWidthsError, NsoptError
from nsopt.files import hold_lock
from nsopt.methods.base import LawInputs, Method
from nsopt.methods.registry import get_method, is_method
from nsopt.models.architecture import Architecture
from nsopt.pruning.search import is_complete
from nsopt.pruning.settings import SearchSettings
from nsopt.samplers.neuralscale import NeuralScaleSampler, Solver
from nsopt.scaling.algorithm3 import solve_widths_sgd
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import PARAMS, Metric
from nsopt.scaling.record import Iteration, describe_reach
from nsopt.scaling.solve import Limits, solve_widths
from nsopt.session.runner import TrialRunner, correct_latency, report_points
from nsopt.session.session import Session
from nsopt.session.subject import read_architecture
from nsopt.session.workspace import Workspace
from nsopt.storage import schema, trials
from nsopt.storage.engine import Job, drain
from nsopt.storage.opening import hide_password
from nsopt.storage.trials import Point
from nsopt.tasks.task import Task
from nsopt.training.loop import identify_training
from nsopt.training.outcome import Outcome


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


class NetworkLaw(NamedTuple):
    """A law and its network. `iteration`: of the search to which the law is fitted, if any."""

    law: ScalingLaw
    arch: Architecture
    iteration: Iteration | None = None


def read_stored_law(
    workspace: Workspace,
    name: str,
    method: Method,
    arch_name: str | None = None,
    task: Task | None = None,
) -> NetworkLaw:
    """Return a method's law in the comparison `name`.

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
    kind = schema.search_kind(method.search_price(settings), settings.price)
    history = trials.read_iterations(studies.get(kind))
    if method.search_iterations(settings) and not history:
        raise NsoptError(f"no {kind} of {name} is stored at {at}: run one first")
    cost = PARAMS.cost(arch)
    law = method.law(LawInputs(arch, cost, cost(arch.base_widths), history))
    return NetworkLaw(law, arch, method.fitted_to(history))


@dataclass(frozen=True, eq=False)
class MethodRunner(TrialRunner):
    """Runs the trials of a method: it proposes the widths and says what a training starts from."""

    laws: Laws
    method: Method

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        point = trials.read_point(trial)
        return RandomSampler() if point is None else self.laws.find_sampler(self.method, point)

    def measure_extrapolation(self, point: Point) -> float | None:
        return self.laws.measure_extrapolation(self.method, point)

    def train(self, point: Point, widths: tuple[int, ...]) -> Outcome:
        """Train from scratch, or fine-tune inherited weights."""
        method, subject = self.method, self.session.subject
        if method.keeps_weights:
            return self.session.evaluate_start()
        checkpoint = self.session.find_checkpoint(point)
        if not method.inherits_weights:
            training = subject.settings.training_for(point.seed)
            return self.session.train(widths, training, checkpoint, point.label)
        trained = train_base_network(self.session, point.seed)
        start = partial(method.start, subject.arch, widths, trained)
        fine_tuning = subject.settings.fine_tuning_for(point.seed)
        return self.session.train(widths, fine_tuning, checkpoint, point.label, start)


class Worker:
    """Works on the comparison of a session, together with any number of other workers."""

    def __init__(self, session: Session, laws: Laws) -> None:
        self._session = session
        self._laws = laws
        self._reported: set[str] = set()

    def work(self) -> int:
        """Run trials until none of the comparison waits or runs; return how many ran here.

        Trials wait if their method needs a search that is not finished. Trials of dead processes
        run later.
        """
        idle = "waiting for the search; if no process runs it, repeat the study's command"
        return drain(self._look, self._report_once, idle)

    def _look(self) -> list[Job]:
        """Return the studies, each with what runs its trials, or None until its law is ready."""
        studies = self._session.studies()
        session = self._session.with_latency_of(studies.values())
        if session is not self._session:
            self._session, self._laws = session, Laws(session)
        self._laws.read(studies)
        jobs = []
        names = [kind for kind in studies if not schema.is_search(kind)]
        if unknown := [name for name in names if not is_method(name)]:
            self._report_once(
                f"methods not installed here, left to other workers: {', '.join(unknown)}"
            )
        for method in map(get_method, filter(is_method, names)):
            runner = MethodRunner(self._session, self._laws, method)
            study = studies[method.name]
            stored = study.get_trials(deepcopy=False)
            jobs.append(Job(study, runner if self._laws.is_ready(method) else None, stored))
        report_points(self._session, jobs)
        return jobs

    def _report_once(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            self._session.progress.message(message)
