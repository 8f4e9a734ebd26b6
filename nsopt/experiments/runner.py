"""What one trial of a comparison does: propose widths, train them, write down what came out."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optuna.exceptions import TrialPruned
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from torch import nn

from nsopt.compute.device import Compute
from nsopt.data.images import Splits
from nsopt.errors import DeterministicError
from nsopt.experiments.comparison import beyond_record
from nsopt.experiments.equal_training import equal_training
from nsopt.experiments.searching import Histories, stored_searches
from nsopt.experiments.task import Task, with_stored_latency
from nsopt.experiments.trained import TrainedNetworks
from nsopt.experiments.tuned_law import tuned_law
from nsopt.experiments.workspace import Workspace
from nsopt.latency.measure import Latency, distrust, latency_conditions, measure_latencies
from nsopt.methods.base import LawInputs, Method
from nsopt.methods.registry import get_method
from nsopt.progress import Progress
from nsopt.samplers.neuralscale import NeuralScaleSampler, suggest_widths
from nsopt.scaling.metric import counted_costs, get_metric
from nsopt.storage import schema, trials
from nsopt.storage.artifacts import BestNetworks
from nsopt.storage.kept import KeptNetwork
from nsopt.storage.studies import has_unfinished, load_studies
from nsopt.storage.trials import Point
from nsopt.training.loop import Figures, Outcome, train_configuration

_BASE = "base"  # in place of a method: the checkpoints of networks to start from


@dataclass(frozen=True, eq=False)
class Runner:
    """Runs the trials of one task; the `Work` of its queue. splits: on the device of `compute`."""

    task: Task
    workspace: Workspace
    compute: Compute
    splits: Splits
    networks: TrainedNetworks
    kept: BestNetworks
    progress: Progress

    def with_latency_of(self, studies: Iterable[Study]) -> "Runner":
        """This one, with the latency model that one of the studies holds if it has none: another
        command, with budgets in milliseconds, may have learned it since this one began."""
        if self.task.arch.latency is not None:
            return self
        arch = with_stored_latency(self.task.arch, studies)
        return replace(self, task=replace(self.task, arch=arch))

    def point(self, trial: FrozenTrial) -> Point | None:
        return trials.read_point(trial)

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """What proposes the widths of a trial."""
        point = trials.read_point(trial)
        if point is None:
            return RandomSampler()
        found = stored_searches(self.task, self.workspace)
        return self.method_sampler(get_method(point.method), point, found)

    def method_sampler(self, method: Method, point: Point, found: Histories) -> NeuralScaleSampler:
        """The sampler along the law of a method; NoWidthsError if it has none at this point."""
        arch, settings = self.task.arch, self.task.settings
        cost = get_metric(point.metric).cost(arch)
        trained = None
        if method.needs_trained_network:
            trained = self.networks.get(settings.base_training_for(point.seed), self.progress)
        tuned = None
        if method.needs_tuned_law:
            tuned = tuned_law(self.workspace, self.task.name, point.metric)
        history = found.get(self.task.search_kind(method.price), ())
        with self.compute.computing():
            law = method.law(LawInputs(arch, cost, point.budget, history, trained, tuned))
        eta = settings.eta if method.by_algorithm_3 else None
        multiple, narrowest = settings.rounding(point.metric)
        return NeuralScaleSampler(
            law, cost, arch.layer_names, eta=eta, multiple_of=multiple, min_width=narrowest
        )

    def run(self, trial: Trial) -> tuple[float, float]:
        """Validation accuracy and latency of a trial; its numbers become its attributes."""
        point = trials.read_point(trial)
        if point is None:
            raise TrialPruned("it has no method, metric, budget and seed")
        widths = suggest_widths(trial, self.task.arch, 1, trials.LARGEST_WIDTH, log=False)
        latency = self.latency(trial.study, widths)
        figures = self._copied(trial, point, widths) or self._trained(trial, point, widths)
        self._write(trial, point, figures, latency)
        return figures.val_accuracy, latency.median_ms

    def failed(self, trial: FrozenTrial, error: DeterministicError) -> None:
        point = trials.read_point(trial)
        self.progress.message(f"{point.label if point else trial.number}: {error}")

    def latency(self, study: Study, widths: Sequence[int]) -> Latency:
        """The latency of a network on this device, as its study holds it or else measured now."""
        (latency,) = self.latencies([(study, tuple(widths))])
        return latency

    def latencies(self, networks: Sequence[tuple[Study, tuple[int, ...]]]) -> list[Latency]:
        """The latencies of networks, those that no study of the comparison holds measured side by
        side: a network has one, whichever methods propose it."""
        with self.compute.exclusive():
            conditions = latency_conditions(self.compute.device)
            known = self._known_latencies({widths for _, widths in networks}, conditions)
            missing = list(dict.fromkeys(w for _, w in networks if w not in known))
            measured = self._measured(missing) if missing else []
        known |= dict(zip(missing, measured, strict=True))
        for study, widths in networks:
            if schema.read_latency(study, widths, conditions) is None:
                schema.write_latency(study, widths, conditions, asdict(known[widths]))
        warning = distrust(measured)
        if warning:
            self.progress.message(warning)
        return [known[widths] for _, widths in networks]

    def _measured(self, networks: Sequence[Sequence[int]]) -> list[Latency]:
        arch = self.task.arch
        models = [arch.build(widths) for widths in networks]
        return measure_latencies(models, arch.input_shape, device=str(self.compute.device))

    def _known_latencies(
        self, networks: Iterable[tuple[int, ...]], conditions: dict[str, Any]
    ) -> dict[tuple[int, ...], Latency]:
        """Those that a study of the comparison holds."""
        asked = {schema.width_key(widths): widths for widths in networks}
        known = {}
        for study in load_studies(self.workspace.storage, self.task.name).values():
            for found in schema.read_latencies(study):
                key = found.pop("widths", None)  # versions before 0.1 kept none
                if key in asked and conditions.items() <= found.items():
                    known[asked[key]] = Latency(**found)
        return known

    def _copied(self, trial: Trial, point: Point, widths: tuple[int, ...]) -> Figures | None:
        """What an equal training of another trial gave, with its network where it may be kept."""
        if get_method(point.method).inherits_weights:
            return None
        studies = load_studies(self.workspace.storage, self.task.name)
        layers = self.task.arch.layer_names
        known = equal_training(studies, self.kept, layers, widths, trial.study, point)
        if known is None:
            return None
        if known.network is not None:
            self.kept.keep_again(trial, known.network)
        trials.write_origin(trial, known.study, known.number)
        self._tell(point, known.figures, f"as {known.point.label}")
        return known.figures

    def _trained(self, trial: Trial, point: Point, widths: tuple[int, ...]) -> Figures:
        outcome = self._train(get_method(point.method), point, widths)
        self.kept.keep_if_best(trial, self._network(point, outcome))
        self._tell(point, outcome, f"{outcome.seconds:.0f} s")
        return outcome

    def _network(self, point: Point, outcome: Outcome) -> KeptNetwork:
        arch, classes = self.task.arch.name, self.task.data.classes
        return KeptNetwork.of(arch, self.splits, classes, point, outcome)

    def mend(self, study: Study) -> None:
        """Train the networks of a study again whose files here are damaged."""
        for trial in self.kept.damaged(study):
            point = trials.read_point(trial)
            assert point is not None
            self.progress.message(f"{point.label}: its network is damaged, and trained again")
            widths = trials.read_widths(trial, self.task.arch.layer_names)
            outcome = self._train(get_method(point.method), point, widths)
            if outcome.val_accuracy == trial.values[0]:
                self.kept.mend(study, trial, self._network(point, outcome))
            else:
                self._tell(point, outcome, "other numbers than before: its file is left as it is")

    def _tell(self, point: Point, figures: Figures, how: str) -> None:
        self.progress.message(
            f"{point.label}: validation {figures.val_accuracy:.2f} %, "
            f"test {figures.test_accuracy:.2f} %, {how}"
        )

    def _train(self, method: Method, point: Point, widths: tuple[int, ...]) -> Outcome:
        arch, settings = self.task.arch, self.task.settings
        start, training = None, settings.training_for(point.seed)
        if method.inherits_weights:
            base = settings.base_training_for(point.seed)
            trained = self.networks.get(base, self.progress)
            training = settings.fine_tuning_for(point.seed)

            def start() -> nn.Module:
                return method.start(arch, widths, trained)

        return train_configuration(
            arch,
            widths,
            self.splits,
            training,
            self.compute,
            self.progress,
            self._checkpoint(point),
            task=point.label,
            start=start,
        )

    def _checkpoint(self, point: Point) -> Path:
        folder = self.workspace.checkpoints(self.task.study_name(point.method))
        return folder / f"{point.metric}-{point.budget}-seed{point.seed}.pt"

    def _write(self, trial: Trial, point: Point, figures: Figures, latency: Latency) -> None:
        arch = self.task.arch
        costs = counted_costs(arch, figures.widths)
        metric = get_metric(point.metric)
        budgeted = metric.cost(arch)(figures.widths)
        excess = (budgeted - point.budget) / point.budget
        found = stored_searches(self.task, self.workspace)
        beyond = beyond_record(self.task, get_method(point.method), metric, point.budget, found)
        numbers = costs | {
            "cost": budgeted,
            "latency_ms": latency.median_ms,
            "latency_lower_quartile_ms": latency.lower_quartile_ms,
            "latency_upper_quartile_ms": latency.upper_quartile_ms,
            "latency_spread": latency.spread,
            "tau": costs["params"],
            "val_accuracy": figures.val_accuracy,
            "test_accuracy": figures.test_accuracy,
            "test_accuracy_best_epoch": figures.test_accuracy_best_epoch,
            "epochs": len(figures.epochs),
            "seconds": figures.seconds,
            "feasible": excess <= 0,
        }
        if beyond is not None:
            numbers["beyond_record"] = beyond
        curves = {
            "train_loss": figures.losses,
            "val_accuracy": [epoch.val_accuracy for epoch in figures.epochs],
            "test_accuracy": [epoch.test_accuracy for epoch in figures.epochs],
        }
        trials.write_outcome(trial, numbers, curves)


def make_runner(task: Task, workspace: Workspace, compute: Compute, progress: Progress) -> Runner:
    """A runner of `task` that keeps its files at `workspace`."""
    splits = task.splits.to(compute.device)
    base = workspace.checkpoints(task.study_name(_BASE))
    return Runner(
        task,
        workspace,
        compute,
        splits,
        TrainedNetworks(task.arch, splits, compute, base),
        BestNetworks(workspace.artifacts),
        progress,
    )


def clear_finished(task: Task, workspace: Workspace) -> None:
    """Delete the checkpoints of those studies of `task` in which nothing waits or runs, and the
    networks of theirs that others have outdone."""
    studies = task.stored_studies(workspace.storage)
    busy = {method for method, study in studies.items() if has_unfinished(study)}
    for method in {m for m in studies.keys() - busy if not schema.is_search(m)}:
        workspace.clear(task.study_name(method))
        BestNetworks(workspace.artifacts).clear(studies[method])
    if not busy:
        workspace.clear(task.study_name(_BASE))
