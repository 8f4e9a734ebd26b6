"""Tune P, the epochs before pruning, or eta, the step size of Algorithm 3.

`pretrain-epochs`: how long must a network train before it is pruned? Each trial runs a search with
some P, solves its law for the budget and trains the network. The objectives are validation accuracy
and the seconds of the search. `eta`: does Algorithm 3 end near the budget, and after few steps?
Trials need one law and no training. The objectives are the distance from the budget and the number
of steps.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from optuna.exceptions import TrialPruned
from optuna.samplers import TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial

from nsopt.compute.device import Compute
from nsopt.errors import DeterministicError, NsoptError
from nsopt.progress import Progress
from nsopt.scaling.algorithm3 import SgdFit, solve_widths_sgd
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import Metric, counted_costs
from nsopt.scaling.record import Iteration
from nsopt.scaling.solve import Limits, solve_widths
from nsopt.session.runner import correct_latency
from nsopt.session.searching import hold_search, search_task
from nsopt.session.session import Session, start_session
from nsopt.session.subject import Subject
from nsopt.session.workspace import Workspace
from nsopt.storage import schema, trials
from nsopt.storage.engine import Work, run_trials
from nsopt.storage.opening import hide_password
from nsopt.storage.trials import TuningPoint

Over = Literal["pretrain-epochs", "eta"]
PRETRAIN_EPOCHS = (0, 2, 5, 10, 30, 60)
_UP, _DOWN = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
_P = "pretrain_epochs"
_MOST_EPOCHS = 10**6
_ETA = (1e-2, 1e6)
_STARTUP_TRIALS = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuning:
    """What to tune.

    Attributes:
        budget: of every network, in the unit of `metric`.
        trials: number of values of eta.
        seeds: number of trials per value of P, with seeds from that of the settings on.
        pretrain_epochs: the values of P.
    """

    subject: Subject
    metric: Metric
    budget: int | float
    over: Over
    trials: int
    seeds: int
    pretrain_epochs: tuple[int, ...] = PRETRAIN_EPOCHS

    @property
    def study_name(self) -> str:
        kind = f"{self.over}-pareto" if self.trains else self.over
        return schema.study_name(schema.tuning_name(self.subject.name), kind)

    @property
    def trains(self) -> bool:
        """Whether trials search and train, rather than only solve."""
        return self.over != "eta"

    @property
    def points(self) -> list[TuningPoint]:
        first = self.subject.settings.training.seed
        if not self.trains:
            return [TuningPoint(seed=first, index=index) for index in range(self.trials)]
        return [
            TuningPoint(seed, pretrain_epochs=epochs)
            for seed in range(first, first + self.seeds)
            for epochs in self.pretrain_epochs
        ]

    @property
    def objectives(self) -> dict[str, StudyDirection]:
        if self.trains:
            return {self.subject.description.validation_name: _UP, "search seconds": _DOWN}
        return {"distance from the budget": _DOWN, "steps": _DOWN}


def run_tuning(tuning: Tuning, workspace: Workspace, progress: Progress) -> Study:
    """Run the missing trials. The same call continues after an interruption.

    Raises:
        NsoptError: if a search fails, or if other settings wrote the storage.
    """
    session = start_session(tuning.subject, workspace, progress)
    tuned = {"budget": tuning.budget, "metric": tuning.metric.name}
    identity, name = session.subject.identity | {"tuning": tuned}, tuning.study_name
    study = session.subject.open_as(
        workspace.storage, name, identity, tuning.objectives, session.compute
    )
    law = None if tuning.trains else _find_law(tuning, session, study)
    runner = TuningRunner(session, tuning, law)
    run_trials(study, tuning.points, partial(trials.enqueue_point, study), runner, progress)
    workspace.clear(tuning.study_name)
    return study


def _find_law(tuning: Tuning, session: Session, study: Study) -> PowerLaw:
    """Return the law on which eta is tuned. Search it once, and store it with the study."""
    with hold_search(session, session.workspace.checkpoints(tuning.study_name)):
        law = schema.read_law(study)
        if law is None:
            law = _search(tuning, session, "search.pt")[-1].law
            schema.write_law(study, law)
    return law


@dataclass(frozen=True, eq=False)
class TuningRunner(Work):
    """Runs the trials of a tuning study: with a law they tune eta, without one P.

    The proposals of their samplers depend on the results so far and on the trial's index.
    """

    session: Session
    tuning: Tuning
    law: PowerLaw | None

    @property
    def compute(self) -> Compute:
        return self.session.compute

    def point(self, trial: FrozenTrial) -> TuningPoint | None:
        """Return the point of a trial; None if a user enqueued the trial."""
        return trials.read_tuning_point(trial) if trials.is_of_tuning(trial) else None

    def sampler(self, trial: FrozenTrial) -> TPESampler:
        point = self.point(trial)
        if point is None:
            raise TrialPruned("the trial has no seed")
        seed = trial.number if point.index is None else point.index
        return TPESampler(seed=seed, multivariate=True, n_startup_trials=_STARTUP_TRIALS)

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        point = trials.read_tuning_point(trial)
        epochs = "" if point.pretrain_epochs is None else f"P {point.pretrain_epochs} "
        self.session.progress.warning(f"{epochs}seed {point.seed}: {error}")

    def run(self, trial: Trial) -> list[float]:
        if self.law is not None:
            fit = self._run_algorithm_3(trial, self.law)
            self.session.progress.message(
                f"eta {trial.params['eta']:.3g}: {fit.error:+.2%} from the budget, "
                f"{fit.steps} steps"
            )
            return [abs(fit.error), fit.steps]
        epochs = trial.suggest_int(_P, 0, _MOST_EPOCHS)  # enqueued: values can be added later
        seed = trials.read_seed(trial)
        checkpoint = f"search-P{epochs}-seed{seed}.pt"
        changes = {"pretrain_epochs": epochs, "seed": seed}
        iterations = _search(self.tuning, self.session, checkpoint, **changes)
        seconds = sum(iteration.seconds for iteration in iterations)
        accuracy = self._train(trial, iterations[-1].law, seed)
        about = self.session.subject.description
        self.session.progress.message(
            f"P {epochs} seed {seed}: {about.score_name or 'validation'} "
            f"{accuracy:.2f}{about.unit}, search {seconds:.0f} s"
        )
        return [accuracy, seconds]

    def _train(self, trial: Trial, law: PowerLaw, seed: int) -> float:
        """Return the validation accuracy of the law's network at the budget."""
        tuning, session, arch = self.tuning, self.session, self.tuning.subject.arch
        metric, budget = tuning.metric, tuning.budget
        limits = Limits(*session.subject.settings.rounding(metric))
        timed = correct_latency(session, trial.study, law, metric, budget, limits)
        fit = solve_widths(law, metric.cost(timed), budget, *limits, warn=False)
        widths = tuple(fit.widths.tolist())
        folder = session.workspace.checkpoints(tuning.study_name)
        outcome = session.train(
            widths,
            tuning.subject.settings.training_for(seed),
            folder / f"training-{schema.width_key(widths)}-seed{seed}.pt",
            f"training, seed {seed}",
        )
        costs = counted_costs(arch, widths)
        numbers = costs | {
            "widths": schema.width_key(widths),
            "score": outcome.score,
            "test_score": outcome.test_score,
            "seconds": outcome.seconds,
        }
        trials.write_outcome(trial, numbers, {})
        return outcome.score

    def _run_algorithm_3(self, trial: Trial, law: PowerLaw) -> SgdFit:
        """Run Algorithm 3 with a proposed eta. Prune the trial if the algorithm diverges."""
        tuning = self.tuning
        eta = trial.suggest_float("eta", *_ETA, log=True)
        fit = solve_widths_sgd(law, tuning.metric.cost(tuning.subject.arch), tuning.budget, eta)
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


def _search(tuning: Tuning, session: Session, checkpoint: str, **changes: int) -> list[Iteration]:
    """Return the iterations of a search with changed settings; `checkpoint` names its file."""
    settings = tuning.subject.settings.search.updated(**changes)
    path = session.workspace.checkpoints(tuning.study_name) / checkpoint
    return list(search_task(session, settings, (), path))


def describe_best(study: Study) -> str:
    """Return the best parameter and what it reaches, such as `P 5: 61.2 (mean of 2 seeds)`.

    Raises:
        NsoptError: if no trial completed.
    """
    best = best_trial(study)
    if (eta := best.params.get("eta")) is not None:
        distance, steps = best.values
        error = -distance if trials.read_outcome(best)["feasible"] else distance
        return f"eta {eta:,.4g}: {error:+.2%} from the budget after {steps:.0f} steps"
    scores = scores_of(best, trials.read_completed(study))
    count = f"mean of {len(scores)} seeds" if len(scores) > 1 else "one seed"
    metric = (study.metric_names or ["score"])[0]
    return f"P {best.params[_P]}: {metric} {np.mean(scores):.4g} ({count})"


def best_trial(study: Study) -> FrozenTrial:
    """Return the trial with the highest accuracy, as a mean over seeds, or the best eta.

    The best eta ends nearest to the budget, and within it if any does; of equal ones, after the
    fewest steps. Of equally good P, the smallest wins.

    Raises:
        NsoptError: if no trial completed.
    """
    done = trials.read_completed(study)
    if not done:
        reason = next(filter(None, map(trials.read_failure, study.trials)), "none ran")
        raise NsoptError(
            f"no trial of {study.study_name} completed ({reason}): give other settings, and "
            "another out= or storage="
        )
    if study.directions[0] == StudyDirection.MINIMIZE:
        return min(done, key=lambda t: (not trials.read_outcome(t)["feasible"], t.values))

    def mean_accuracy(trial: FrozenTrial) -> tuple[int, float]:
        same = scores_of(trial, done)
        return len(same), sum(same) / len(same)  # fewer seeds are no fair comparison

    return max(sorted(done, key=lambda t: t.params.get("pretrain_epochs", 0)), key=mean_accuracy)


def scores_of(trial: FrozenTrial, done: Iterable[FrozenTrial]) -> list[float]:
    """Return the scores of the completed trials with the parameters of `trial`, one per seed."""
    return [repeat.values[0] for repeat in done if repeat.params == trial.params]


def best_settings(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return the best settings of a tuning study, as changes for `override`.

    Args:
        name: ARCH-DATA-PRESET-tune/KIND.

    Raises:
        NsoptError: if the study is missing or has no completed trial.
    """
    prefix, kind = schema.split_name(name)
    study = workspace.studies(prefix).get(kind) if schema.is_tuning(prefix) else None
    if study is None:
        raise NsoptError(
            f"no tuning study {name!r} is stored at {hide_password(workspace.url)}: "
            "run nsopt tune first"
        )
    parameters = best_trial(study).params
    if "pretrain_epochs" in parameters:
        return {"search": parameters}
    return {name: value for name, value in parameters.items() if name == "eta"}
