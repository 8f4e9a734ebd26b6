"""Choose widths at a budget by scores, in an Optuna study.

Each trial is a law of a family. A network with the law's widths inherits from the trained network
and is trained for a few steps. Its score is how closely its outputs then follow those of the
trained network.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from torch import nn

from nsopt.compression.budgets import Budget
from nsopt.compression.latency import solve_candidate
from nsopt.compute.device import Compute
from nsopt.errors import DeterministicError, NoWidthsError
from nsopt.latency.bisection import Widths
from nsopt.methods.registry import BASELINE, SCORED
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.pruning.inherited import SCORE_STEPS, score
from nsopt.samplers.candidates import (
    list_starts,
    make_family,
    make_sampler,
    suggest_parameters,
    with_recorded,
)
from nsopt.scaling.family import LawFamily
from nsopt.scaling.law import PowerLaw, uniform_curve
from nsopt.scaling.metric import counted_costs
from nsopt.scaling.record import Iteration
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.trials import TuningPoint
from nsopt.study.searching import run_searches
from nsopt.study.session import Session
from nsopt.study.widths_in_time import correct_latency
from nsopt.study.workspace import Workspace
from nsopt.tasks.agreement import Agreement, is_closer
from nsopt.tuning.points import PointReader, open_tuning, run_points

_AS_TIMED = 2**31 - 1  # index of the trial whose widths were timed; candidates count from 0
METRIC_NAME = "agreement with the trained network before fine-tuning (%)"


@dataclass(frozen=True, eq=False)
class ScoreRunner(PointReader):
    """Scores laws of a family at one budget; the `Work` of a queue.

    Attributes:
        family: the laws.
        solve: returns the widths along a law at the budget.
        measure: returns the score of widths, and what to store with it.
        compute: the device.
        progress: receives the best score so far, and failures.
    """

    family: LawFamily
    solve: Callable[[PowerLaw], Widths]
    measure: Callable[[Widths], tuple[float, Mapping[str, Any]]]
    compute: Compute
    progress: Progress

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Return a sampler whose proposals depend on the scores so far and the trial's index."""
        return make_sampler(self.sampler_seed(trial))

    def run(self, trial: Trial) -> list[float]:
        """Return the score of the widths along the law that a trial suggests."""
        widths = self.solve(self.family.law(suggest_parameters(trial, self.family)))
        key = schema.width_key(widths)
        known = trials.read_completed_by_widths(trial.study)
        value, numbers = _read_score(known[key]) if key in known else self.measure(widths)
        trials.write_outcome(trial, {**numbers, "widths": key}, {})
        best = max([value, *(other.values[0] for other in known.values())])
        self.progress.advance(f"best {best:.4g}")
        return [value]

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        self.progress.message(f"trial {trial.number}: {error}")


def _read_score(trial: FrozenTrial) -> tuple[float, dict[str, Any]]:
    """Return the score of a trial, and the numbers that are stored with it."""
    stored = trials.read_outcome(trial)
    return trial.values[0], {name: value for name, value in stored.items() if value is not None}


@dataclass(frozen=True, eq=False)
class _AgreementScore:
    """Scores widths of a session by agreement with its trained network."""

    session: Session

    @cached_property
    def _compare_with_start(self) -> Callable[[nn.Module], Agreement]:
        session, start = self.session, self.session.task.start
        assert start is not None
        compare = session.supervision.comparison(start, session.compute)
        assert compare is not None, "images have a distance"
        return compare

    def _compare(self, widths: Widths) -> Agreement:
        session = self.session
        assert session.start is not None
        compare = self._compare_with_start
        return score(session.start, widths, session.supervision, compare, session.compute)

    def measure(self, widths: Widths) -> tuple[float, dict[str, Any]]:
        """Return the agreement (%), and costs and validation accuracy."""
        found = self._compare(widths)
        costs = counted_costs(self.session.task.arch, widths)
        return found.percentage, costs | {"score": found.score}

    def judge(self, best: FrozenTrial, uniform: FrozenTrial | None = None) -> str:
        """Return in words whether the images distinguish the best widths from uniform ones."""
        agree = "agreement with the trained network before fine-tuning"
        if uniform is None:
            return f"{agree}: {best.values[0]:.1f} % for the best widths"
        if best.number == uniform.number:
            return f"{agree}: {best.values[0]:.1f} % for uniform widths, the best"
        verdict = (
            f"{agree}: {best.values[0]:.1f} % for the best widths, {uniform.values[0]:.1f} % for "
            "uniform ones"
        )
        keys = (trials.read_scored_widths(trial) or "" for trial in (best, uniform))
        one, other = (self._compare(schema.read_width_key(key)) for key in keys)
        if is_closer(one, other):
            return verdict
        images = len(one.distances)
        return f"{verdict}; {images:,} validation images are too few to tell which are closer"


def store_scored_law(session: Session, budget: Budget, candidates: int) -> None:
    """Run the missing scores at a budget, and store the best law.

    Args:
        session: the trained network and its data.
        budget: the budget.
        candidates: number of laws to score: first uniform scaling, the laws of the searches, the
            widths that pruning had at the budget, and the laws halfway between uniform scaling and
            each of these; then proposals of a sampler.

    Raises:
        NsoptError: if a search fails, or if other settings wrote the storage.
        NoWidthsError: if no law has widths at this budget.
    """
    task, arch = session.task, correct_for_uniform(session, budget)
    family = make_score_family(arch, run_searches(session, budget.metric), budget)
    name = schema.study_name(schema.tuning_name(task.name), budget.scores_kind)
    tuned = {
        "metric": budget.metric.name,
        "budget": budget.limit,
        "steps": SCORE_STEPS,
        "by": "agreement",
    }
    study = open_tuning(session, name, tuned, [METRIC_NAME])
    scorer = _AgreementScore(session)
    solve = partial(_solve_candidate, session, budget)
    runner = ScoreRunner(family, solve, scorer.measure, session.compute, session.progress)
    done = score_laws(study, runner, budget, candidates, task.settings.training.seed)
    trained = _read_trained_widths(session, budget)
    verdict = _store_best(study, done, family, scorer, trained)
    session.progress.message(f"{budget.word}: {verdict}")
    if not trained:
        score_as_timed(study, runner, partial(_solve_as_timed, session, budget), budget, done)


def _store_best(
    study: Study,
    done: Sequence[FrozenTrial],
    family: LawFamily,
    scorer: _AgreementScore,
    trained: Collection[str | None],
) -> str:
    """Store the law with the best score if it is a new one; return the verdict in words.

    Args:
        trained: widths that were fine-tuned before as the best ones; the law then stays.
    """
    best = find_best(done)
    law = family.law(best.params)
    known, verdict = schema.read_law(study), schema.read_verdict(study)
    if verdict is not None and known is not None and known.to_dict() == law.to_dict():
        return verdict
    if trained and trials.read_scored_widths(best) not in trained:
        return (
            "other widths score best among these candidates, but a network with the first was "
            "trained already: give another --out"
        )
    uniform = [trial for trial in done if trials.read_tuning_point(trial).index == 0]
    verdict = scorer.judge(best, *uniform)
    schema.write_verdict(study, verdict)
    schema.write_law(study, law)  # last, so that an interruption repeats the judgement
    return verdict


def _read_trained_widths(session: Session, budget: Budget) -> set[str | None]:
    """Return the widths at a budget that were fine-tuned before as the best ones."""
    study = session.studies().get(SCORED.name)
    done = [] if study is None else trials.read_completed(study)
    return {
        schema.width_key(trials.read_widths(trial, session.task.arch.layer_names))
        for trial in done
        if budget.holds(trial)
    }


def score_laws(
    study: Study, runner: ScoreRunner, budget: Budget, candidates: int, seed: int
) -> list[FrozenTrial]:
    """Score laws of a family, together with any other process; return the trials with a score.

    Args:
        study: where the scores are stored; those that it has are not repeated.
        runner: scores a law. Those of `list_first_candidates` come first.
        budget: the budget.
        candidates: number of laws.
        seed: identifies the trials.

    Raises:
        NoWidthsError: if no law has widths at this budget.
    """
    runner.progress.start(f"scoring widths at {budget.word}", candidates)
    starts = dict(enumerate(list_first_candidates(runner.family)))
    points: dict[TuningPoint, Mapping[str, float]] = {
        TuningPoint(seed, index=index): starts.get(index, {}) for index in range(candidates)
    }
    run_points(study, points, runner, runner.progress)
    done = trials.read_completed(study)
    if not done:
        raise NoWidthsError(f"no candidate has widths within {budget.shown}: give a larger budget")
    return done


def score_as_timed(
    study: Study,
    runner: ScoreRunner,
    solve: Callable[[PowerLaw], Widths],
    budget: Budget,
    done: Sequence[FrozenTrial],
) -> None:
    """Score the widths along the best law that are within milliseconds as timed.

    Candidates have widths that few measurements found.

    Args:
        study: where the score is stored.
        runner: scored the candidates.
        solve: returns the widths along a law, which it times.
        budget: the budget; only for one in milliseconds is there anything to do.
        done: the trials of the candidates.
    """
    if budget.metric.is_timed:
        best = find_best(done)
        point = TuningPoint(trials.read_tuning_point(best).seed, index=_AS_TIMED)
        run_points(study, {point: best.params}, replace(runner, solve=solve), runner.progress)


def _solve_candidate(session: Session, budget: Budget, law: PowerLaw) -> Widths:
    task = session.task
    return solve_candidate(budget, task.arch, task.settings, session.timer, law)


def _solve_as_timed(session: Session, budget: Budget, law: PowerLaw) -> Widths:
    base, study = session.task.arch.base_widths, session.open_study(SCORED.name)
    arch = correct_latency(session, study, law, budget.metric, budget.limit, base)
    return budget.solve(law, arch, session.task.settings)


def find_best(done: Sequence[FrozenTrial]) -> FrozenTrial:
    """Return the trial with the highest score; if equal, the first."""
    return max(done, key=lambda trial: trial.values[0])


def correct_for_uniform(session: Session, budget: Budget) -> Architecture:
    """Return the network. If the budget limits milliseconds, correct its latency model.

    The model is then right for the uniform network at this budget, which is timed once.

    Raises:
        NoWidthsError: if no uniform network is within the budget, as timed.
    """
    arch, metric = session.task.arch, budget.metric
    if not metric.is_timed:
        return arch
    study, law = session.open_study(BASELINE.name), uniform_curve(arch.base_widths)
    return correct_latency(session, study, law, metric, budget.limit, arch.base_widths)


def make_score_family(
    arch: Architecture, searches: Mapping[Price, Iteration], budget: Budget
) -> LawFamily:
    """Return the family whose laws are scored at a budget.

    Args:
        arch: the network.
        searches: by price: first the published search, then the search by importance per cost. The
            widths of the last one at the budget are a member of the family.
        budget: the budget.
    """
    family = make_family(arch, {price: search.law for price, search in searches.items()})
    *_, priced = searches.values()
    return with_recorded(family, arch, priced.record, budget.metric, budget.limit)


def read_accuracies(workspace: Workspace, name: str, budget: Budget) -> dict[str, float]:
    """Return validation accuracies (%) before fine-tuning, by the `width_key` of their widths.

    Args:
        workspace: the storage.
        name: ARCH-DATA-PRESET.
        budget: the budget.
    """
    studies = workspace.studies(schema.tuning_name(name))
    study = studies.get(budget.scores_kind)
    done = {} if study is None else trials.read_completed_by_widths(study)
    return {key: trials.read_outcome(trial)["score"] for key, trial in done.items()}


def list_first_candidates(family: LawFamily) -> list[dict[str, float]]:
    """Return the parameters of uniform scaling, of the other laws, and of laws halfway to each."""
    uniform, *searched = list_starts(family)
    halfway = [uniform | {name: 0.5} for name in family.others]
    return [uniform, *searched, *halfway]
