"""A training that need not be run again: one of the same widths with the same seed has ended.

Methods often agree, at one budget or at budgets in several metrics. All that train from scratch
train in the same way, so that their numbers would be the same.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState

from nsopt.deployment.artifacts import BestNetworks
from nsopt.methods.registry import methods
from nsopt.storage import schema, trials
from nsopt.storage.studies import load_studies
from nsopt.storage.trials import Point
from nsopt.training.loop import Epoch, Figures


@dataclass(frozen=True, eq=False)
class EqualTraining:
    """point, study, number: of the trial that ran it; network: the content of its file, None where
    none is kept and none will be needed."""

    figures: Figures
    point: Point
    study: Study
    number: int
    network: dict[str, Any] | None


def equal_training(
    studies: Mapping[str, Study],
    kept: BestNetworks,
    layer_names: Sequence[str],
    widths: tuple[int, ...],
    own: Study,
    point: Point,
) -> EqualTraining | None:
    """A training of `widths` with the seed of `point` in the studies of a comparison.

    own: the study of the trial that runs `point`. None if none has ended, or where its network was
    lost and may turn out to be the best at this budget.
    """
    ended = list(_trainings(studies, layer_names, widths))
    equal = [each for each in ended if each.point.seed == point.seed]
    for each in equal:
        trial = each.study.get_trials(deepcopy=False)[each.number]
        network = kept.content(each.study, trial)
        if network and network["seed"] == point.seed and tuple(network["widths"]) == widths:
            return replace(each, network=network)
    if equal and _is_outdone(equal[0], ended, own, point):
        return equal[0]
    return None


def _trainings(
    studies: Mapping[str, Study], layer_names: Sequence[str], widths: tuple[int, ...]
) -> Iterator[EqualTraining]:
    """The trainings of `widths` from scratch that have ended, without their networks."""
    known = methods()
    wanted = {
        trials.width_parameter(name): width for name, width in zip(layer_names, widths, strict=True)
    }
    for kind, study in studies.items():
        if kind not in known or known[kind].inherits_weights:
            continue
        for trial in trials.read_completed(study):
            point, curves = trials.read_point(trial), trials.read_curves(trial)
            if point is None or not curves or not wanted.items() <= trial.params.items():
                continue
            numbers = zip(*(curves[each.name] for each in fields(Epoch)), strict=True)
            epochs = tuple(Epoch(*row) for row in numbers)
            figures = Figures(widths, epochs, trials.read_outcome(trial)["seconds"])
            yield EqualTraining(figures, point, study, trial.number, None)


def _is_outdone(
    equal: EqualTraining, ended: Iterable[EqualTraining], own: Study, point: Point
) -> bool:
    """Whether a better one of the trainings of these widths is that of a seed which `own` has, or
    will have, at the budget of `point`: then the network of `equal` is not kept there."""
    states = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)
    others = [trials.read_point(trial) for trial in own.get_trials(deepcopy=False, states=states)]
    size = (point.metric, point.budget)
    seeds = {other.seed for other in others if other and (other.metric, other.budget) == size}
    return any(each.point.seed in seeds and _rank(each) > _rank(equal) for each in ended)


def _rank(training: EqualTraining) -> tuple[float, int]:
    return training.figures.val_accuracy, -training.point.seed


def equal_tuning_trainings(study: Study, storage: BaseStorage) -> dict[str, float]:
    """Validation accuracies by `training_key`, of the tunings of curves beside `study`, and of
    `study` itself, that train as it does: those for all metrics begin with the same networks."""
    prefix, _ = schema.split_name(study.study_name)
    training = _of_training(study)
    found: dict[str, float] = {}
    for kind, other in load_studies(storage, prefix).items():
        if schema.is_curve(kind) and _of_training(other) == training:
            for trial in trials.read_completed(other):
                found |= trials.read_trainings(trial)
    return found


def _of_training(study: Study) -> dict[str, Any]:
    """The settings of a curve's tuning, but for what it is tuned at."""
    settings = schema.read_settings(study)
    return settings | {"tuning": settings["tuning"]["epochs"]}
