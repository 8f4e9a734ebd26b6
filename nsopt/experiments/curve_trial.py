"""What one trial of a curve's tuning does: solve a member of the family and train its widths."""

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from nsopt.compute.device import Compute
from nsopt.data.images import Splits
from nsopt.errors import DeterministicError
from nsopt.experiments.curve_request import CurveTuning, Sampler
from nsopt.experiments.equal_training import equal_tuning_trainings
from nsopt.experiments.workspace import Workspace
from nsopt.progress import Progress
from nsopt.scaling.family import SLOPE, LawFamily
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import counted_costs
from nsopt.scaling.solve import solve_widths
from nsopt.storage import schema, trials
from nsopt.storage.trials import TuningPoint
from nsopt.training.loop import train_configuration

RANGES = {SLOPE: (-1.5, 1.5)}
WEIGHTS = (-1.0, 1.5)


@dataclass(frozen=True, eq=False)
class CurveRunner:
    """Runs the trials of a curve's tuning, or of its confirmation; the `Work` of their queues.

    study_name: whose trials these are; splits: on the device of `compute`; seeds: trained in each
    trial, from the one it was enqueued with.
    """

    tuning: CurveTuning
    study_name: str
    seeds: int
    family: LawFamily
    workspace: Workspace
    compute: Compute
    splits: Splits
    progress: Progress

    def point(self, trial: FrozenTrial) -> TuningPoint:
        return trials.read_tuning_point(trial)

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Its proposals follow from the results so far and the index of the trial."""
        return make_sampler(self.tuning.sampler, trials.read_tuning_point(trial).index or 0)

    def failed(self, trial: FrozenTrial, error: DeterministicError) -> None:
        self.progress.message(f"trial {trial.number}: {error}")

    def run(self, trial: Trial) -> list[float]:
        """The mean validation accuracy over sizes and seeds."""
        parameters = {
            name: trial.suggest_float(name, *RANGES.get(name, WEIGHTS))
            for name in self.family.parameters
        }
        first = trials.read_seed(trial)
        networks = self._networks(self.family.law(parameters))
        trainings = [(w, seed) for w in networks for seed in range(first, first + self.seeds)]
        accuracies = self._accuracies(trial.study, trainings)
        accuracy = sum(accuracies) / len(accuracies)
        keys = [trials.training_key(*training) for training in trainings]
        trials.write_trainings(trial, dict(zip(keys, accuracies, strict=True)))
        numbers = counted_costs(self.tuning.task.arch, networks[-1])
        numbers |= {"widths": schema.width_key(networks[-1]), "val_accuracy": accuracy}
        trials.write_outcome(trial, numbers, {})
        shown = ", ".join(f"{name} {value:.2f}" for name, value in parameters.items())
        self.progress.message(f"{shown}: validation {accuracy:.2f} %")
        return [accuracy]

    def _networks(self, law: PowerLaw) -> list[tuple[int, ...]]:
        """The widths along a law at each size."""
        task, metric = self.tuning.task, self.tuning.metric
        cost, rounding = metric.cost(task.arch), task.settings.rounding(metric.name)
        fits = [solve_widths(law, cost, size.budget, *rounding) for size in self.tuning.sizes]
        return [tuple(fit.widths.tolist()) for fit in fits]

    def _accuracies(
        self, study: Study, trainings: Sequence[tuple[tuple[int, ...], int]]
    ) -> list[float]:
        """Of trainings of widths with a seed, those that are not known yet run now."""
        known = equal_tuning_trainings(study, self.workspace.storage)
        for widths, seed in trainings:
            key = trials.training_key(widths, seed)
            if key not in known:
                known[key] = self._train(widths, seed)
        return [known[trials.training_key(*training)] for training in trainings]

    def _train(self, widths: tuple[int, ...], seed: int) -> float:
        task = self.tuning.task
        folder = self.workspace.checkpoints(self.study_name)
        outcome = train_configuration(
            task.arch,
            widths,
            self.splits,
            task.settings.training_for(seed).updated(epochs=self.tuning.epochs),
            self.compute,
            self.progress,
            folder / f"training-{trials.training_key(widths, seed)}.pt",
            task=f"training, seed {seed}",
        )
        return outcome.val_accuracy


def make_sampler(name: Sampler, seed: int) -> BaseSampler:
    """A sampler of the weights, which begins to model after what was enqueued and a few others."""
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=6)
    return TPESampler(seed=seed, multivariate=True, n_startup_trials=6)
