"""What one trial of a tuning study does: search, solve and train, or solve alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.exceptions import TrialPruned
from optuna.trial import Trial, TrialState

from nsopt.descent import descend
from nsopt.errors import NonFiniteLossError, ShortRecordError
from nsopt.progress import Progress
from nsopt.pruning.record import Iteration
from nsopt.scaling.power_law import PowerLaw
from nsopt.scaling.solve import solve_widths
from nsopt.scaling.solve_sgd import SgdFit, solve_widths_sgd
from nsopt.training.checkpoint import Checkpoint
from nsopt.training.device import Compute, place, seeded
from nsopt.training.loop import Epoch, train_model, training_identity
from nsopt.tuning import schema
from nsopt.tuning.tune_request import Tuning

_P = "pretrain_epochs"
_MOST_EPOCHS = 10**6
_ETA = (1e-2, 1e6)
_SEARCH_SECONDS = "search_seconds"


@dataclass(frozen=True, eq=False)
class TuningObjective:
    """Calls with a trial give the values of the study's directions.

    law: what eta alone is tuned on; None where trials search.
    """

    tuning: Tuning
    compute: Compute
    progress: Progress
    law: PowerLaw | None

    def __call__(self, trial: Trial) -> list[float]:
        if self.law is not None:
            fit = self._sgd_fit(trial, self.law)
            self.progress.message(
                f"eta {trial.params['eta']:.3g}: {fit.error:+.2%} from the budget, "
                f"{fit.steps} steps"
            )
            return [abs(fit.error), fit.steps]
        epochs = self._pretrain_epochs(trial)
        seed = trial.user_attrs["seed"]
        try:
            iteration, seconds = self._searched(trial, epochs, seed)
            schema.write_iteration(trial, iteration)
            trial.set_user_attr(_SEARCH_SECONDS, seconds)
            accuracy = self._train(trial, iteration.law, seed)
        except (NonFiniteLossError, ShortRecordError) as error:
            schema.write_failure(trial, error)
            self.progress.message(f"P {epochs} seed {seed}: {error}")
            raise
        self.progress.message(
            f"P {epochs} seed {seed}: validation {accuracy:.2f} %, search {seconds:.0f} s"
        )
        return [accuracy, seconds][: len(self.tuning.directions)]

    def _pretrain_epochs(self, trial: Trial) -> int:
        """As it was enqueued, so that more values can be added later; or proposed."""
        if self.tuning.over == "pretrain-epochs":
            return trial.suggest_int(_P, 0, _MOST_EPOCHS)
        epochs: int = trial.suggest_categorical(_P, self.tuning.pretrain_epochs)
        return epochs

    def _searched(self, trial: Trial, epochs: int, seed: int) -> tuple[Iteration, float]:
        """The last iteration of a search, and the seconds of all; an earlier trial may have it."""
        for other in trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            same = (other.params[_P], other.user_attrs["seed"])
            if same == (epochs, seed):
                return schema.read_iteration(other), other.user_attrs[_SEARCH_SECONDS]
        comparison = self.tuning.comparison
        settings = comparison.settings.search.updated(pretrain_epochs=epochs, seed=seed)
        checkpoint = comparison.checkpoints / f"tune-search-P{epochs}-seed{seed}.pt"
        iterations = list(
            descend(
                comparison.arch,
                comparison.data,
                settings,
                (),
                self.progress,
                checkpoint,
                self.compute.machine,
            )
        )
        return iterations[-1], sum(iteration.seconds for iteration in iterations)

    def _train(self, trial: Trial, law: PowerLaw, seed: int) -> float:
        """Validation accuracy of the law's network at the budget, trained from scratch."""
        tuning, comparison = self.tuning, self.tuning.comparison
        arch, cost = comparison.arch, comparison.arch.cost(comparison.metric)
        if tuning.over == "both":
            widths = tuple(self._sgd_fit(trial, law).widths.tolist())
        else:
            widths = tuple(solve_widths(law, cost, tuning.budget).widths.tolist())
        settings = comparison.settings.training_for(seed)
        with seeded(seed, self.compute.device):
            model = place(arch.build(widths), self.compute.device)
        splits = comparison.splits.to(self.compute.device)
        identity = training_identity(arch, widths, splits, settings)
        path = comparison.checkpoints / f"tune-{schema.width_key(widths)}-seed{seed}.pt"
        checkpoint = Checkpoint(path, identity)
        self.progress.start(f"training, seed {seed}", settings.epochs)

        def report(epochs: Sequence[Epoch]) -> None:
            if tuning.objective == "accuracy":
                trial.report(epochs[-1].val_accuracy, len(epochs))
                if trial.should_prune():
                    checkpoint.remove()
                    raise TrialPruned

        history = train_model(
            model, splits, settings, self.compute, self.progress, checkpoint, report
        )
        last = history.epochs[-1]
        for name, value in {
            "params": arch.cost("params")(widths),
            "macs": arch.cost("macs")(widths),
            "widths": schema.width_key(widths),
            "val_accuracy": last.val_accuracy,
            "test_accuracy": last.test_accuracy,
            "seconds": history.seconds,
        }.items():
            trial.set_user_attr(name, value)
        return last.val_accuracy

    def _sgd_fit(self, trial: Trial, law: PowerLaw) -> SgdFit:
        """Algorithm 3 with a proposed eta; where it diverges, the trial is pruned."""
        tuning, comparison = self.tuning, self.tuning.comparison
        eta = trial.suggest_float("eta", *_ETA, log=True)
        fit = solve_widths_sgd(law, comparison.arch.cost(comparison.metric), tuning.budget, eta)
        trial.set_constraint(schema.BUDGET, fit.error)
        for name, value in {
            "budget_error": fit.error,
            "steps": fit.steps,
            "converged": fit.converged,
            "feasible": fit.error <= 0,
        }.items():
            trial.set_user_attr(name, value)
        if fit.diverged:
            raise TrialPruned
        return fit
