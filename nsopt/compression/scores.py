"""Widths at a budget by their scores: an Optuna study in which nothing is trained.

Its trials are members of the family of laws. A member's score is the validation accuracy of the
widths along it when they inherit from the trained network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from nsopt.compute.device import Compute
from nsopt.errors import DeterministicError, NoWidthsError
from nsopt.pruning.inherited import score
from nsopt.pruning.supervision import Classification
from nsopt.scaling.family import LawFamily
from nsopt.scaling.metric import Metric, counted_costs
from nsopt.scaling.solve import solve_widths
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.provenance import provenance
from nsopt.storage.studies import open_study
from nsopt.storage.trials import TuningPoint
from nsopt.study.comparison import Size
from nsopt.study.searching import continue_searches
from nsopt.study.session import Session
from nsopt.study.workspace import Workspace
from nsopt.tuning.curve import RANGES, WEIGHTS, law_family, make_sampler
from nsopt.tuning.points import run_points

METRIC_NAME = "validation accuracy before training (%)"


@dataclass(frozen=True, eq=False)
class ScoreRunner:
    """Scores members of a family at one budget; the `Work` of a study's queue."""

    session: Session
    family: LawFamily
    metric: Metric
    size: Size

    @property
    def compute(self) -> Compute:
        return self.session.compute

    def point(self, trial: FrozenTrial) -> TuningPoint:
        return trials.read_tuning_point(trial)

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Its proposals follow from the scores so far and the index of the trial."""
        return make_sampler("tpe", trials.read_tuning_point(trial).index or 0)

    def failed(self, trial: FrozenTrial, error: DeterministicError) -> None:
        self.session.progress.message(f"trial {trial.number}: {error}")

    def run(self, trial: Trial) -> list[float]:
        """Return the score of the widths along a member at the budget."""
        parameters = {
            name: trial.suggest_float(name, *RANGES.get(name, WEIGHTS))
            for name in self.family.parameters
        }
        session, start = self.session, self.session.start
        assert start is not None
        arch = session.task.arch
        fit = solve_widths(
            self.family.law(parameters),
            self.metric.cost(arch),
            self.size.budget,
            *session.task.settings.rounding(self.metric.name),
            max_width=arch.base_widths,
        )
        widths = tuple(fit.widths.tolist())
        images = Classification(session.splits, session.task.settings.training.resized_crop)
        accuracy = score(start, widths, images, session.splits, session.compute)
        numbers = counted_costs(arch, widths) | {"widths": schema.width_key(widths)}
        trials.write_outcome(trial, numbers | {"val_accuracy": accuracy}, {})
        session.progress.advance(f"best {_best_score(trial.study, accuracy):.1f} %")
        return [accuracy]


def find_scored_law(session: Session, metric: Metric, size: Size, candidates: int) -> Study:
    """Run the scores that are missing at a budget, and store the best law; return their study.

    Args:
        candidates: how many members are scored: uniform scaling, the pure laws, then proposals.

    Raises:
        NsoptError: if a search fails, or if other settings wrote the storage.
        NoWidthsError: if no member has widths at this budget.
    """
    task = session.task
    prices: tuple[Price, ...] = ("filters", cast("Price", metric.name))
    needed: dict[Price | None, int] = dict.fromkeys(prices, 1)
    found = continue_searches(session, needed)
    family = law_family(task.arch, {price: found[price][0].law for price in prices})
    study = _open(session, metric, size)
    starts = _starts(family)
    points: dict[TuningPoint, Mapping[str, float]] = {
        TuningPoint(task.settings.training.seed, index=i): starts[i] if i < len(starts) else {}
        for i in range(candidates)
    }
    session.progress.start(f"scoring widths at {metric.show(size.budget)}", len(points))
    run_points(study, points, ScoreRunner(session, family, metric, size), session.progress)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        raise NoWidthsError(f"no widths fit a budget of {metric.show(size.budget)}")
    best = max(done, key=lambda trial: (trial.values[0], -trial.number))
    schema.write_law(study, family.law(best.params))
    schema.write_verdict(study, f"score {best.values[0]:.1f} % before training")
    return study


def read_scores(workspace: Workspace, name: str, metric: Metric, size: Size) -> dict[str, float]:
    """Return the scores at a budget by the `width_key` of their widths.

    Args:
        name: ARCH-DATA-PRESET.
    """
    studies = workspace.studies(schema.tuning_name(name))
    study = studies.get(schema.scores_kind(metric.name, size.budget))
    return {} if study is None else trials.read_values_by_widths(study)


def _starts(family: LawFamily) -> list[dict[str, float]]:
    """Uniform scaling, the pure laws, and halfway to each of them."""
    zero = dict.fromkeys(family.parameters, 0.0)
    pure = [zero | {name: 1.0} for name in family.others]
    halfway = [zero | {name: 0.5} for name in family.others]
    return [zero, *pure, *halfway]


def _best_score(study: Study, latest: float) -> float:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max([latest, *(float(trial.values[0]) for trial in done)])


def _open(session: Session, metric: Metric, size: Size) -> Study:
    task = session.task
    prefix = schema.tuning_name(task.name)
    tuned: dict[str, Any] = {"metric": metric.name, "budget": size.budget}
    return open_study(
        session.workspace.storage,
        schema.study_name(prefix, schema.scores_kind(metric.name, size.budget)),
        task.description,
        task.source,
        task.identity | {"tuning": tuned},
        provenance(session.compute),
        [METRIC_NAME],
        [StudyDirection.MAXIMIZE],
    )
