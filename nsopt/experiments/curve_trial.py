"""What one trial of a curve's tuning does: solve a member of the family and train its widths."""

from dataclasses import dataclass

from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, Trial

from nsopt.compute.device import Compute
from nsopt.data.images import Splits
from nsopt.errors import DeterministicError
from nsopt.experiments.curve_request import CurveTuning, Sampler
from nsopt.experiments.workspace import Workspace
from nsopt.progress import Progress
from nsopt.scaling.family import SLOPE, LawFamily
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
        law = self.family.law(parameters)
        first, arch = trials.read_seed(trial), self.tuning.task.arch
        metric = self.tuning.metric
        cost, rounding = metric.cost(arch), self.tuning.task.settings.rounding(metric.name)
        accuracies, numbers = [], dict[str, object]()
        for size in self.tuning.sizes:
            fit = solve_widths(law, cost, size.budget, *rounding)
            widths = tuple(fit.widths.tolist())
            costs = counted_costs(arch, widths)
            numbers |= costs | {"widths": schema.width_key(widths)}
            accuracies += [self._train(widths, seed) for seed in range(first, first + self.seeds)]
        accuracy = sum(accuracies) / len(accuracies)
        trials.write_outcome(trial, numbers | {"val_accuracy": accuracy}, {})
        shown = ", ".join(f"{name} {value:.2f}" for name, value in parameters.items())
        self.progress.message(f"{shown}: validation {accuracy:.2f} %")
        return [accuracy]

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
            folder / f"training-{schema.width_key(widths)}-seed{seed}.pt",
            task=f"training, seed {seed}",
        )
        return outcome.val_accuracy


def make_sampler(name: Sampler, seed: int) -> BaseSampler:
    """A sampler of the weights, which begins to model after what was enqueued and a few others."""
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=6)
    if name == "cmaes":
        return CmaEsSampler(seed=seed, n_startup_trials=6)
    return TPESampler(seed=seed, multivariate=True, n_startup_trials=6)
