"""What one trial of a tuning study does: search, solve and train, or solve alone."""

from dataclasses import dataclass

from optuna.exceptions import TrialPruned
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial

from nsopt.compute.device import Compute
from nsopt.data.images import Splits
from nsopt.errors import DeterministicError
from nsopt.experiments.searching import descend_task
from nsopt.experiments.tuning_request import Tuning
from nsopt.experiments.workspace import Workspace
from nsopt.progress import Progress
from nsopt.scaling.algorithm3 import SgdFit, solve_widths_sgd
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import counted_costs
from nsopt.scaling.record import Iteration
from nsopt.scaling.solve import solve_widths
from nsopt.storage import schema, trials
from nsopt.storage.trials import TuningPoint
from nsopt.training.loop import train_configuration

_P = "pretrain_epochs"
_MOST_EPOCHS = 10**6
_ETA = (1e-2, 1e6)
_STARTUP_TRIALS = 10


@dataclass(frozen=True, eq=False)
class TuningRunner:
    """Runs the trials of a tuning study; the `Work` of its queue.

    splits: on the device of `compute`; law: what eta alone is tuned on, None where trials search.
    """

    tuning: Tuning
    workspace: Workspace
    compute: Compute
    splits: Splits
    progress: Progress
    law: PowerLaw | None

    def point(self, trial: FrozenTrial) -> TuningPoint:
        return trials.read_tuning_point(trial)

    def sampler(self, trial: FrozenTrial) -> TPESampler:
        """Its proposals follow from the results so far and the index of the trial."""
        index = trials.read_tuning_point(trial).index
        seed = trial.number if index is None else index
        return TPESampler(seed=seed, multivariate=True, n_startup_trials=_STARTUP_TRIALS)

    def failed(self, trial: FrozenTrial, error: DeterministicError) -> None:
        point = trials.read_tuning_point(trial)
        epochs = "" if point.pretrain_epochs is None else f"P {point.pretrain_epochs} "
        self.progress.message(f"{epochs}seed {point.seed}: {error}")

    def run(self, trial: Trial) -> list[float]:
        """The values of the study's directions."""
        if self.law is not None:
            fit = self._sgd_fit(trial, self.law)
            self.progress.message(
                f"eta {trial.params['eta']:.3g}: {fit.error:+.2%} from the budget, "
                f"{fit.steps} steps"
            )
            return [abs(fit.error), fit.steps]
        epochs = trial.suggest_int(_P, 0, _MOST_EPOCHS)  # enqueued, so that more can be added
        seed = trials.read_seed(trial)
        iteration, seconds = self._searched(epochs, seed)
        trials.write_search(trial, iteration, seconds)
        accuracy = self._train(trial, iteration.law, seed)
        self.progress.message(
            f"P {epochs} seed {seed}: validation {accuracy:.2f} %, search {seconds:.0f} s"
        )
        return [accuracy, seconds]

    def _searched(self, epochs: int, seed: int) -> tuple[Iteration, float]:
        """The last iteration of a search, and the seconds of all."""
        iterations = searched(
            self.tuning,
            self.workspace,
            self.compute,
            self.splits,
            self.progress,
            f"search-P{epochs}-seed{seed}.pt",
            pretrain_epochs=epochs,
            seed=seed,
        )
        return iterations[-1], sum(iteration.seconds for iteration in iterations)

    def _train(self, trial: Trial, law: PowerLaw, seed: int) -> float:
        """Validation accuracy of the law's network at the budget, trained from scratch."""
        tuning, arch = self.tuning, self.tuning.task.arch
        rounding = tuning.task.settings.rounding(tuning.metric.name)
        fit = solve_widths(law, tuning.metric.cost(arch), tuning.budget, *rounding)
        widths = tuple(fit.widths.tolist())
        folder = self.workspace.checkpoints(tuning.study_name)
        checkpoint = folder / f"training-{schema.width_key(widths)}-seed{seed}.pt"
        outcome = train_configuration(
            arch,
            widths,
            self.splits,
            tuning.task.settings.training_for(seed),
            self.compute,
            self.progress,
            checkpoint,
            task=f"training, seed {seed}",
        )
        costs = counted_costs(arch, widths)
        numbers = costs | {
            "widths": schema.width_key(widths),
            "val_accuracy": outcome.val_accuracy,
            "test_accuracy": outcome.test_accuracy,
            "seconds": outcome.seconds,
        }
        trials.write_outcome(trial, numbers, {})
        return outcome.val_accuracy

    def _sgd_fit(self, trial: Trial, law: PowerLaw) -> SgdFit:
        """Algorithm 3 with a proposed eta; where it diverges, the trial is pruned."""
        tuning = self.tuning
        eta = trial.suggest_float("eta", *_ETA, log=True)
        fit = solve_widths_sgd(law, tuning.metric.cost(tuning.task.arch), tuning.budget, eta)
        trial.set_constraint(trials.BUDGET, fit.error)
        numbers = {
            "budget_error": fit.error,
            "steps": fit.steps,
            "converged": fit.converged,
            "feasible": fit.error <= 0,
        }
        trials.write_outcome(trial, numbers, {})
        if fit.diverged:
            raise TrialPruned
        return fit


def searched(
    tuning: Tuning,
    workspace: Workspace,
    compute: Compute,
    splits: Splits,
    progress: Progress,
    checkpoint: str,
    **changes: int,
) -> list[Iteration]:
    """The iterations of a search with some settings changed. checkpoint: the name of its file."""
    settings = tuning.task.settings.search.updated(**changes)
    path = workspace.checkpoints(tuning.study_name) / checkpoint
    return list(descend_task(tuning.task, splits, settings, (), compute, progress, path))
