"""Reuse a completed training of the same widths with the same seed.

Methods often propose the same widths, at one budget or at budgets in several metrics. All trainings
from scratch are equal, so that their results would be the same.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState

from nsopt.deployment.artifacts import BestNetworks
from nsopt.methods.registry import get_method, is_method
from nsopt.storage import trials
from nsopt.storage.trials import Point
from nsopt.training.loop import Epoch, TrainingNumbers


@dataclass(frozen=True, eq=False)
class EqualTraining:
    """A completed training.

    Attributes:
        numbers: its results.
        point: what its trial ran.
        study: the study of its trial.
        number: the number of its trial.
        network: the content of its file; None if it has no file and needs none.
    """

    numbers: TrainingNumbers
    point: Point
    study: Study
    number: int
    network: dict[str, Any] | None


def find_equal_training(
    studies: Mapping[str, Study],
    kept: BestNetworks,
    layer_names: Sequence[str],
    widths: tuple[int, ...],
    study: Study,
    point: Point,
) -> EqualTraining | None:
    """Return a training of `widths` with the seed of `point`, from the studies of a comparison.

    Args:
        kept: the networks in this folder.
        study: the study of the trial that runs `point`.

    Returns:
        None if there is no such training, or if its network is lost and may be needed, because it
        could be the best at this budget.
    """
    ended = list(_read_trainings(studies, layer_names, widths))
    equal = [each for each in ended if each.point.seed == point.seed]
    for each in equal:
        trial = each.study.get_trials(deepcopy=False)[each.number]
        network = kept.content(each.study, trial)
        if network and network["seed"] == point.seed and tuple(network["widths"]) == widths:
            return replace(each, network=network)
    if equal and _is_outdone(equal[0], ended, study, point):
        return equal[0]
    return None


def _read_trainings(
    studies: Mapping[str, Study], layer_names: Sequence[str], widths: tuple[int, ...]
) -> Iterator[EqualTraining]:
    """Yield the completed trainings of `widths` from scratch, without their networks."""
    wanted = {
        trials.width_parameter(name): width for name, width in zip(layer_names, widths, strict=True)
    }
    for kind, study in studies.items():
        if not is_method(kind) or get_method(kind).inherits_weights:
            continue
        for trial in trials.read_completed(study):
            point, curves = trials.read_point(trial), trials.read_curves(trial)
            if point is None or not curves or not wanted.items() <= trial.params.items():
                continue
            rows = zip(*(curves[name] for name in trials.CURVES), strict=True)
            epochs = tuple(Epoch(*row) for row in rows)
            numbers = TrainingNumbers(widths, epochs, trials.read_outcome(trial)["seconds"])
            yield EqualTraining(numbers, point, study, trial.number, None)


def _is_outdone(
    equal: EqualTraining, ended: Iterable[EqualTraining], study: Study, point: Point
) -> bool:
    """Return whether a better training of these widths makes the network of `equal` needless.

    The seed of the better training must be among those of `study` at the budget of `point`, whether
    its trial has completed or not.
    """
    states = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)
    others = [trials.read_point(trial) for trial in study.get_trials(deepcopy=False, states=states)]
    size = (point.metric, point.budget)
    seeds = {other.seed for other in others if other and (other.metric, other.budget) == size}
    return any(each.point.seed in seeds and _rank(each) > _rank(equal) for each in ended)


def _rank(training: EqualTraining) -> tuple[float, int]:
    return training.numbers.val_accuracy, -training.point.seed
