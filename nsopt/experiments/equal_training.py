"""A training that need not be run again: one of the same widths with the same seed has ended.

Methods often agree, at one budget or at budgets in several metrics. All that train from scratch
train in the same way, so that their numbers would be the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState

from nsopt.methods.registry import methods
from nsopt.storage import schema, trials
from nsopt.storage.artifacts import BestNetworks
from nsopt.storage.studies import load_studies
from nsopt.storage.trials import Point
from nsopt.training.loop import Epoch, Figures


@dataclass(frozen=True, eq=False)
class EqualTraining:
    """point, study, number: of the trial that ran it; network: what is kept of the widths there,
    of the best seed."""

    figures: Figures
    point: Point
    study: Study
    number: int
    network: dict[str, Any]


def equal_training(
    studies: Mapping[str, Study],
    kept: BestNetworks,
    layer_names: Sequence[str],
    widths: tuple[int, ...],
    seed: int,
) -> EqualTraining | None:
    """A training of `widths` with `seed` in the studies of a comparison; None if none has ended,
    or where its network was lost."""
    known = methods()
    wanted = {
        trials.width_parameter(name): width for name, width in zip(layer_names, widths, strict=True)
    }
    for kind, study in studies.items():
        if kind not in known or known[kind].inherits_weights:
            continue
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            point, curves = trials.read_point(trial), trials.read_curves(trial)
            if point is None or point.seed != seed or not curves:
                continue
            if not wanted.items() <= trial.params.items():
                continue
            network = kept.content(study, point)
            if network and tuple(network.get("widths", ())) == widths:
                numbers = zip(*(curves[each.name] for each in fields(Epoch)), strict=True)
                epochs = tuple(Epoch(*own) for own in numbers)
                figures = Figures(widths, epochs, trials.read_outcome(trial)["seconds"])
                return EqualTraining(figures, point, study, trial.number, network)
    return None


def equal_tuning_trainings(study: Study, storage: BaseStorage) -> dict[str, float]:
    """Validation accuracies by `training_key`, of the tunings of curves beside `study`, and of
    `study` itself, that train as it does: those for all metrics begin with the same networks."""
    prefix, _ = schema.split_name(study.study_name)
    training = _of_training(study)
    found: dict[str, float] = {}
    for kind, other in load_studies(storage, prefix).items():
        if schema.is_curve(kind) and _of_training(other) == training:
            for trial in other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                found |= trials.read_trainings(trial)
    return found


def _of_training(study: Study) -> dict[str, Any]:
    """The settings of a curve's tuning, but for what it is tuned at."""
    settings = schema.read_settings(study)
    return settings | {"tuning": settings["tuning"]["epochs"]}
