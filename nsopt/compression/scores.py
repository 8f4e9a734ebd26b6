"""Choose widths at a budget by scores, in an Optuna study.

Each trial is a law of a family. A network with the law's widths inherits from the trained network
and is trained for a few steps. Its score is how closely its outputs then follow those of the
trained network, or the score of a task without a distance.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from optuna.samplers import GPSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial
from torch import nn

from nsopt.compression.budgets import Budget
from nsopt.compression.latency import Solver
from nsopt.errors import NoWidthsError, NsoptError
from nsopt.latency.bisection import Widths
from nsopt.pruning.inherited import SCORE_STEPS, evaluate_inherited
from nsopt.pruning.rules import get_size_metric
from nsopt.scaling.family import SLOPE, LawFamily, relative, relative_uniform
from nsopt.scaling.law import PowerLaw, uniform_curve
from nsopt.scaling.metric import counted_costs
from nsopt.session.points import PointRunner, open_tuning, run_points
from nsopt.session.searching import run_searches
from nsopt.session.session import Session
from nsopt.storage import schema, trials
from nsopt.storage.trials import TuningPoint
from nsopt.tasks.agreement import Agreement, is_closer
from nsopt.tasks.supervision import evaluate

Found = TypeVar("Found")
_UP = StudyDirection.MAXIMIZE
_SLOPES, _WEIGHTS = (-1.5, 1.5), (-1.0, 1.5)  # of the members of a family, from least to most
_STARTUP_TRIALS = 6  # that are sampled at random
_AS_TIMED = 2**30  # added to the index of a candidate: the trial of its widths as timed


@dataclass(frozen=True, eq=False)
class ScoreRunner(PointRunner):
    """Scores laws of a family at a budget.

    Attributes:
        solve: returns the widths along a law at the budget.
        measure: returns the score of widths, and what to store with it.
    """

    budget: Budget
    family: LawFamily
    solve: Callable[[PowerLaw], Widths]
    measure: Callable[[Widths], tuple[float, Mapping[str, Any]]]
    in_order = True

    def sampler(self, trial: FrozenTrial) -> GPSampler:
        return GPSampler(seed=self.sampler_seed(trial), n_startup_trials=_STARTUP_TRIALS)

    def run(self, trial: Trial) -> list[float]:
        """Return the score of the widths along the law that a trial suggests."""
        parameters = {
            name: trial.suggest_float(name, *(_SLOPES if name == SLOPE else _WEIGHTS))
            for name in self.family.parameters
        }
        widths = self.solve(self.family.law(parameters))
        known = trials.read_completed_by_widths(trial.study)
        same = known.get(widths)
        stored = same and (same.values[0], trials.read_outcome(same))
        value, numbers = stored or self.measure(widths)
        trials.write_outcome(trial, {**numbers, "widths": schema.width_key(widths)}, {})
        best = max([value, *(earlier.values[0] for earlier in known.values())])
        self.session.progress.advance(f"best {best:.4g}")
        return [value]


@dataclass(frozen=True, eq=False)
class _Scorer:
    """Scores widths of a session, whose trained network they inherit from."""

    session: Session

    @cached_property
    def _compare_with_start(self) -> Callable[[nn.Module], Agreement] | None:
        return self.session.supervision.comparison(self.session.trained, self.session.compute)

    @property
    def by(self) -> str:
        """What is scored, with its unit."""
        if self._compare_with_start is not None:
            return "agreement with the trained network before fine-tuning (%)"
        return f"{self.session.subject.description.score_name} before fine-tuning"

    def _score(self, widths: Widths, judge: Callable[[nn.Module], Found]) -> Found:
        session = self.session
        assert session.start is not None
        return evaluate_inherited(
            session.start, widths, session.supervision, judge, session.compute
        )

    def measure(self, widths: Widths) -> tuple[float, dict[str, Any]]:
        """Return the score, and what is stored with it: costs, and the score of the task."""
        session, compare = self.session, self._compare_with_start
        costs = counted_costs(session.subject.arch, widths)
        if compare is not None:
            result = self._score(widths, compare)
            if result.percentage == 0 and result.distances.isfinite().all():
                raise NsoptError(
                    f"distance= returned {result.distances.mean():.3g} for an example of a smaller "
                    "network: divide it, so that it is about 1 for unrelated outputs"
                )
            before = result.percentage if result.score is None else result.score
            return result.percentage, costs | {"score": before}

        def validate(model: nn.Module) -> float:
            return evaluate(session.supervision.validation(session.compute), model)

        value = self._score(widths, validate)
        return value, costs | {"score": value}

    def judge(self, best: FrozenTrial, uniform: FrozenTrial | None) -> str:
        """Return in words how the best widths score beside uniform ones, and how surely."""
        what, form = self.by.removesuffix(" (%)"), "{:.1f} %" if "(%)" in self.by else "{:.4g}"
        first = form.format(best.values[0])
        if uniform is None:
            return f"{what}: {first} for the best widths"
        if best.number == uniform.number:
            return f"{what}: {first} for uniform widths, the best"
        second = form.format(uniform.values[0])
        verdict = f"{what}: {first} for the best widths, {second} for uniform ones"
        compare = self._compare_with_start
        if compare is None:
            return verdict
        of_best, of_uniform = (
            self._score(trials.read_scored_widths(trial), compare) for trial in (best, uniform)
        )
        if is_closer(of_best, of_uniform):
            return verdict
        examples = f"{len(of_best.distances):,} validation examples"
        return f"{verdict}; {examples} are too few to tell which are closer"


def choose_widths(session: Session, solver: Solver, candidates: int) -> Widths:
    """Run the missing scores at the budget of `solver`; return the widths with the best score.

    Args:
        candidates: number of laws to score: first uniform scaling, the laws of the searches, the
            widths that pruning had at the budget, those of one ranking, and the laws halfway
            between uniform scaling and each of these; then proposals of a sampler.

    Raises:
        NsoptError: if a search fails, or if other settings wrote the storage.
        NoWidthsError: if no law has widths at this budget.
    """
    budget, scorer = solver.budget, _Scorer(session)
    name = schema.study_name(schema.tuning_name(session.subject.name), budget.scores_kind)
    tuned = {"metric": budget.metric.name, "budget": budget.limit, "steps": SCORE_STEPS}
    study = open_tuning(session, name, tuned | {"by": scorer.by}, {scorer.by: _UP})
    trained, done = find_trained(session, budget), _read_candidates(study)
    if trained is None or len(done) < candidates:
        family = _make_family(session, solver)
        solve = partial(_solve, solver)
        runner = ScoreRunner(session, budget, family, solve, scorer.measure)
        done = score_laws(study, runner, candidates, session.subject.settings.training.seed)
    best = find_best(done)
    if trained is None:
        uniform = next((t for t in done if trials.read_tuning_point(t).index == 0), None)
        verdict = schema.read_verdict(study, best.number)
        if verdict is None:
            verdict = scorer.judge(best, uniform)
            schema.write_verdict(study, best.number, verdict)
        session.progress.message(f"{budget.word}: {verdict}")
        best = score_as_timed(study, runner, done)
        return trials.read_scored_widths(best)
    if not budget.metric.is_timed and trained != trials.read_scored_widths(best):
        session.progress.message(
            f"{budget.word}: other widths score best among these candidates, but a network with "
            "the first was trained already: give another out="
        )
    return trained


def _solve(solver: Solver, law: PowerLaw) -> Widths:
    """Return the widths along a law; uniform ones are those that are fine-tuned, too."""
    uniform = uniform_curve(solver.arch.base_widths)
    shares = law.alpha / uniform.alpha
    is_uniform = np.allclose(shares, shares[0]) and np.allclose(law.beta, law.beta[0])
    return solver.solve(uniform if is_uniform else law)


def _make_family(session: Session, solver: Solver) -> LawFamily:
    """Return the family whose laws are scored at a budget.

    They are those of a search as published and of one by importance per cost. Members, too, are the
    widths that each had at the budget, and those that one ranking of the trained network's units by
    importance per cost leaves. For milliseconds the latency model is first made right for the
    uniform network at this budget.
    """
    arch, budget = session.subject.arch, solver.budget
    searches = run_searches(session, budget.metric)
    if budget.metric.is_timed:
        asked = solver.ask(uniform_curve(arch.base_widths))
        arch = asked.keeping(solver.timer.find(asked))
    laws = {
        str(price): relative(search.law, get_size_metric(price).cost(arch), arch.base_widths)
        for price, search in searches.items()
    }
    family = LawFamily(relative_uniform(arch.base_widths), laws)
    cost = budget.metric.cost(arch)
    members = {}
    for price, search in searches.items():
        pruned = search.trajectory.within(cost, budget.limit)
        if pruned is not None:
            members[f"pruned by {price}"] = pruned
    assert session.start is not None
    with suppress(NoWidthsError):  # by a model of milliseconds, though measured ones were found
        members["ranked"] = session.start.ranking.widths_per_cost(cost, budget.limit)
    return family.with_members(members, cost)


def find_trained(session: Session, budget: Budget, method: str = schema.SCORED) -> Widths | None:
    """Return the widths of a method that were fine-tuned at a budget before; None without any."""
    done = trials.read_completed(session.studies().get(method))
    names = session.subject.arch.layer_names
    return next((trials.read_widths(trial, names) for trial in done if budget.holds(trial)), None)


def has_ended(session: Session, budget: Budget) -> bool:
    """Return whether a compression has returned a network at a budget before."""
    study = session.studies().get(schema.DENSE)
    stored = [] if study is None else schema.read_networks(study)
    return any(row.get("budget") == budget.word for row in stored)


def score_laws(study: Study, runner: ScoreRunner, candidates: int, seed: int) -> list[FrozenTrial]:
    """Score laws of a family, together with any other process; return the trials with a score.

    The laws of `list_first_candidates` come first. Scores that the study has are not repeated.

    Raises:
        NoWidthsError: if no law has widths at this budget.
    """
    runner.session.progress.start(f"scoring widths at {runner.budget.word}", candidates)
    starts = dict(enumerate(list_first_candidates(runner.family)))
    points: dict[TuningPoint, Mapping[str, float]] = {
        TuningPoint(seed, index=index): starts.get(index, {}) for index in range(candidates)
    }
    run_points(study, points, runner)
    done = _read_candidates(study)
    if not done:
        shown = runner.budget.metric.show(runner.budget.limit)
        raise NoWidthsError(f"no candidate has widths within {shown}: give a larger budget")
    return done


def _read_candidates(study: Study) -> list[FrozenTrial]:
    """Return the trials with a score, without those of widths as timed."""
    done = trials.read_completed(study)
    return [trial for trial in done if (trials.read_tuning_point(trial).index or 0) < _AS_TIMED]


def score_as_timed(study: Study, runner: ScoreRunner, done: Sequence[FrozenTrial]) -> FrozenTrial:
    """Return the trial of the best candidate, or of the widths along its law as timed by `runner`.

    Candidates at a budget in milliseconds have widths that few measurements found, so that the
    widths along the best law are timed, and scored.
    """
    best = find_best(done)
    if not runner.budget.metric.is_timed:
        return best
    law = trials.read_tuning_point(best)
    assert law.index is not None
    point = replace(law, index=_AS_TIMED + law.index)
    run_points(study, {point: best.params}, runner)
    done = trials.read_completed(study)
    return next(trial for trial in done if trials.read_tuning_point(trial) == point)


def find_best(done: Sequence[FrozenTrial]) -> FrozenTrial:
    """Return the trial with the highest score; if equal, the first."""
    return max(done, key=lambda trial: trial.values[0])


def read_scores(session: Session, budget: Budget) -> dict[Widths, float]:
    """Return the task's scores at a budget before fine-tuning, after a few steps, by widths."""
    stored = session.workspace.studies(schema.tuning_name(session.subject.name))
    done = trials.read_completed_by_widths(stored.get(budget.scores_kind))
    return {widths: trials.read_outcome(trial)["score"] for widths, trial in done.items()}


def list_first_candidates(family: LawFamily) -> list[dict[str, float]]:
    """Return the parameters of uniform scaling, of the other laws, and of laws halfway to each."""
    uniform = dict.fromkeys(family.parameters, 0.0)
    others = [uniform | {name: weight} for weight in (1.0, 0.5) for name in family.others]
    return [uniform, *others]
