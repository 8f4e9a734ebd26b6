"""The studies in a storage: found by name, made once, continued by the same settings only."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from nsopt.data.source import Source
from nsopt.errors import NsoptError
from nsopt.settings import differences
from nsopt.storage import schema


def load_studies(storage: BaseStorage, prefix: str) -> dict[str, Study]:
    """The studies that nsopt made whose names are `prefix/METHOD`, by method."""
    return {
        kind: optuna.load_study(study_name=f"{own}/{kind}", storage=storage)
        for own, kind in _ours(storage)
        if own == prefix
    }


def comparisons(storage: BaseStorage) -> list[str]:
    """The names of the comparisons and searches that nsopt keeps in a storage."""
    return sorted({prefix for prefix, _ in _ours(storage) if not schema.is_tuning(prefix)})


def tunings(storage: BaseStorage) -> list[str]:
    """What the names of the tuning studies in a storage begin with."""
    return sorted({prefix for prefix, _ in _ours(storage) if schema.is_tuning(prefix)})


def _ours(storage: BaseStorage) -> list[tuple[str, str]]:
    """Prefix and method of the studies that nsopt made."""
    ours = [study.study_name for study in storage.get_all_studies() if schema.is_ours(study)]
    return [schema.split_name(name) for name in sorted(ours)]


def only_comparison(storage: BaseStorage) -> str:
    """The name of the one comparison that is stored; NsoptError if there are none or several."""
    found = comparisons(storage)
    if len(found) != 1:
        known = ", ".join(found) or "none"
        raise NsoptError(f"say which comparison with --name: stored are {known}")
    return found[0]


def open_study(
    storage: BaseStorage,
    name: str,
    task: schema.TaskDescription,
    source: Source,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    metric_names: Sequence[str],
    directions: Sequence[StudyDirection] = schema.DIRECTIONS,
) -> Study:
    """The study `name`, made and marked if it is not there yet.

    NsoptError if other settings wrote it.
    """
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=directions,
        load_if_exists=True,
    )
    if schema.read_settings(study):
        check_settings(study, settings)
    else:
        schema.write_identity(study, task, source, settings, provenance, metric_names)
    return study


def check_settings(study: Study, ours: Mapping[str, Any]) -> None:
    """Raise NsoptError, listing the differences, if `study` was written by other settings.

    What an older version did not store of the data is not compared, nor what it stored with a
    search and a search does not depend on.
    """
    theirs = schema.read_settings(study)
    if schema.is_search(schema.split_name(study.study_name)[1]):
        theirs = {name: value for name, value in theirs.items() if name in ours}
    data = {name: value for name, value in ours["data"].items() if name in theirs["data"]}
    found = differences({**ours, "data": data}, theirs)
    if found:
        raise NsoptError(
            f"{study.study_name} was written by other settings ({'; '.join(found)}): "
            "repeat those, or give another --out or --storage"
        )


def has_unfinished(study: Study) -> bool:
    """Whether trials wait or run."""
    states = (TrialState.WAITING, TrialState.RUNNING)
    return bool(study.get_trials(deepcopy=False, states=states))
