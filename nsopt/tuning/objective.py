"""What one trial does: train the widths it was given and write down what came out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from optuna.exceptions import TrialPruned
from optuna.study import Study
from optuna.trial import Trial
from torch import nn

from nsopt.data.images import Splits
from nsopt.errors import NonFiniteLossError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.pruning.magnitude import rank_filters
from nsopt.scaling.cost import METRICS
from nsopt.training.checkpoint import Checkpoint
from nsopt.training.device import Compute, place, seeded
from nsopt.training.latency import Latency, measure_latency
from nsopt.training.loop import Outcome, train_model, training_identity
from nsopt.tuning import schema
from nsopt.tuning.artifacts import BestWeights
from nsopt.tuning.methods import MAGNITUDE, MagnitudePruning
from nsopt.tuning.sampler import suggest_widths
from nsopt.tuning.settings import StudySettings
from nsopt.tuning.trained import TrainedNetworks


@dataclass(frozen=True)
class Runner:
    """Runs trials of one comparison; its `run` is an Optuna objective.

    checkpoints: a folder for trainings that are interrupted; weights: where the best end up.
    """

    arch: Architecture
    splits: Splits
    compute: Compute
    settings: StudySettings
    networks: TrainedNetworks
    checkpoints: Path
    weights: BestWeights
    progress: Progress

    def run(self, trial: Trial) -> tuple[float, float]:
        """Validation accuracy and latency of a trial; its numbers become its attributes."""
        point = schema.read_point(trial)
        if point is None:
            raise TrialPruned("it has no method, metric, budget and seed")
        try:
            widths = self._widths(trial, point)
            latency = self.latency(trial.study, widths)
            outcome, model = self._outcome(point, widths)
        except NonFiniteLossError as error:
            schema.write_failure(trial, error)
            self.progress.message(f"{point.label}: {error}")
            raise
        self._write(trial, point, outcome, latency)
        self.weights.keep_if_best(trial.study, outcome.val_accuracy, widths, model)
        self.progress.message(
            f"{point.label}: validation {outcome.val_accuracy:.2f} %, "
            f"test {outcome.test_accuracy:.2f} %, {outcome.seconds:.0f} s"
        )
        return outcome.val_accuracy, latency.median_ms

    def latency(self, study: Study, widths: Sequence[int]) -> Latency:
        """The latency of a network, as its study holds it or else measured now."""
        known = schema.read_latencies(study).get(schema.width_key(widths))
        if known is not None:
            return Latency(**known)
        model = self.arch.build(widths)
        with self.compute.alone():
            latency = measure_latency(model, self.arch.input_shape, device=str(self.compute.device))
        schema.write_latency(study, widths, asdict(latency))
        return latency

    def _widths(self, trial: Trial, point: schema.Point) -> tuple[int, ...]:
        """What the sampler proposes; of magnitude, what its trained network is pruned to."""
        if point.method != MAGNITUDE:
            return suggest_widths(trial, self.arch)
        pruning = MagnitudePruning(self.arch, self.settings, self.networks)
        widths = pruning.widths(point, self.progress)
        for name, width in zip(self.arch.layer_names, widths, strict=True):
            trial.suggest_int(schema.width_parameter(name), width, width)
        return widths

    def _outcome(self, point: schema.Point, widths: tuple[int, ...]) -> tuple[Outcome, nn.Module]:
        started = perf_counter()
        if point.method == MAGNITUDE:
            model = self._pruned_network(point, widths)
            settings = self.settings.fine_tuning_for(point.seed)
        else:
            settings = self.settings.training_for(point.seed)
            with seeded(point.seed, self.compute.device):
                model = place(self.arch.build(widths), self.compute.device)
        preparation = perf_counter() - started
        identity = training_identity(self.arch, widths, self.splits, settings)
        path = self.checkpoints / f"{point.method}-{point.budget}-seed{point.seed}.pt"
        self.progress.start(point.label, settings.epochs)
        history = train_model(
            model, self.splits, settings, self.compute, self.progress, Checkpoint(path, identity)
        )
        return Outcome(widths, history.epochs, preparation + history.seconds), model

    def _pruned_network(self, point: schema.Point, widths: tuple[int, ...]) -> nn.Module:
        """The trained network's filters of largest norm, in a network of `widths`."""
        settings = self.settings.magnitude_training_for(point.seed)
        trained = self.networks.get(settings, self.progress)
        kept = rank_filters(self.arch, trained).strongest(widths)
        with seeded(point.seed, self.compute.device):
            return place(self.arch.inherit(trained, kept, widths), self.compute.device)

    def _write(self, trial: Trial, point: schema.Point, outcome: Outcome, latency: Latency) -> None:
        costs = {metric: int(self.arch.cost(metric)(outcome.widths)) for metric in METRICS}
        excess = (costs[point.metric] - point.budget) / point.budget
        trial.set_constraint(schema.BUDGET, excess)
        numbers: dict[str, float] = costs | {
            "latency_ms": latency.median_ms,
            "latency_lower_quartile_ms": latency.lower_quartile_ms,
            "latency_upper_quartile_ms": latency.upper_quartile_ms,
            "tau": costs["params"],
            "val_accuracy": outcome.val_accuracy,
            "test_accuracy": outcome.test_accuracy,
            "test_accuracy_best_epoch": outcome.test_accuracy_best_epoch,
            "epochs": len(outcome.epochs),
            "seconds": outcome.seconds,
            "feasible": excess <= 0,
        }
        curves: dict[str, Sequence[float]] = {
            "train_loss": outcome.losses,
            "val_accuracy": [epoch.val_accuracy for epoch in outcome.epochs],
            "test_accuracy": [epoch.test_accuracy for epoch in outcome.epochs],
        }
        schema.write_outcome(trial, numbers, curves)
