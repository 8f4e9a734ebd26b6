"""What a tuning study was asked for, and where its best settings are found again."""

from dataclasses import dataclass
from typing import Any, Literal

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nsopt.errors import NsoptError
from nsopt.experiments.task import Task
from nsopt.experiments.workspace import Workspace
from nsopt.scaling.metric import Metric
from nsopt.storage import schema
from nsopt.storage.studies import load_studies
from nsopt.storage.trials import TuningPoint
from nsopt.storage.urls import hide_password

Over = Literal["pretrain-epochs", "eta"]
PRETRAIN_EPOCHS = (0, 2, 5, 10, 30, 60)
_UP, _DOWN = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuning:
    """What to tune. budget: of every network, in the unit of `metric`.

    trials: of eta; P tries every one of `pretrain_epochs` with `seeds` seeds, from that of the
    settings on.
    """

    task: Task
    metric: Metric
    budget: int | float
    over: Over
    trials: int
    seeds: int
    pretrain_epochs: tuple[int, ...] = PRETRAIN_EPOCHS

    @property
    def study_name(self) -> str:
        kind = f"{self.over}-pareto" if self.trains else self.over
        return schema.study_name(schema.tuning_name(self.task.name), kind)

    @property
    def trains(self) -> bool:
        """Whether trials search and train, rather than only solve."""
        return self.over != "eta"

    @property
    def points(self) -> list[TuningPoint]:
        """What its trials run."""
        first = self.task.settings.training.seed
        if not self.trains:
            return [TuningPoint(seed=first, index=index) for index in range(self.trials)]
        return [
            TuningPoint(seed, pretrain_epochs=epochs)
            for seed in range(first, first + self.seeds)
            for epochs in self.pretrain_epochs
        ]

    @property
    def directions(self) -> tuple[StudyDirection, ...]:
        return (_UP, _DOWN) if self.trains else (_DOWN, _DOWN)

    @property
    def metric_names(self) -> list[str]:
        if self.trains:
            return ["validation accuracy (%)", "search seconds"]
        return ["distance from the budget", "steps"]

    @property
    def identity(self) -> dict[str, Any]:
        """What its numbers depend on, beside the parameters of a trial."""
        return self.task.identity | {"tuning": {"budget": self.budget, "metric": self.metric.name}}


def best_settings(workspace: Workspace, name: str) -> dict[str, dict[str, Any]]:
    """The best of a tuning study, as changes that `override` takes.

    name: ARCH-DATA-PRESET-tune/KIND. NsoptError if there is no such study, or nothing in it.
    """
    prefix, kind = schema.split_name(name)
    there = workspace.has_storage and schema.is_tuning(prefix)
    study = load_studies(workspace.storage, prefix).get(kind) if there else None
    if study is None:
        raise NsoptError(
            f"no tuning study {name!r} is stored at {hide_password(workspace.url)}: "
            "run nsopt tune first"
        )
    if schema.is_curve(kind):
        raise NsoptError(f"{name!r} ended with a law: use it with --methods tuned")
    parameters = best_trial(study).params
    search = {k: v for k, v in parameters.items() if k == "pretrain_epochs"}
    return {"search": search, "": {k: v for k, v in parameters.items() if k == "eta"}}


def best_trial(study: Study) -> FrozenTrial:
    """Of the highest accuracy, mean over seeds; for eta alone nearest the budget, then soonest.

    The first of equal ones, so that the shortest of equally good P is taken.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        raise NsoptError(f"{study.study_name} has no completed trial")
    if study.directions[0] == _DOWN:
        return min(done, key=lambda trial: trial.values)

    def mean_accuracy(trial: FrozenTrial) -> float:
        same: list[float] = [other.values[0] for other in done if other.params == trial.params]
        return sum(same) / len(same)

    return max(sorted(done, key=lambda t: t.params.get("pretrain_epochs", 0)), key=mean_accuracy)
