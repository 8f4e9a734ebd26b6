"""Find the studies of a storage by name; open one only with the settings that created it."""

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
    """Return nsopt's studies `prefix/METHOD`, by method."""
    return {
        kind: optuna.load_study(study_name=f"{own}/{kind}", storage=storage)
        for own, kind in _ours(storage)
        if own == prefix
    }


def comparisons(storage: BaseStorage) -> list[str]:
    """Return the names of nsopt's comparisons and searches in a storage."""
    return sorted({prefix for prefix, _ in _ours(storage) if not schema.is_tuning(prefix)})


def tunings(storage: BaseStorage) -> list[str]:
    """Return the prefixes of the tuning studies in a storage."""
    return sorted({prefix for prefix, _ in _ours(storage) if schema.is_tuning(prefix)})


def _ours(storage: BaseStorage) -> list[tuple[str, str]]:
    """Return prefix and method of nsopt's studies."""
    ours = [study.study_name for study in storage.get_all_studies() if schema.is_ours(study)]
    return [schema.split_name(name) for name in sorted(ours)]


def only_comparison(storage: BaseStorage) -> str:
    """Return the name of the only comparison. Raises NsoptError if there are none or several."""
    found = comparisons(storage)
    if len(found) != 1:
        known = ", ".join(found) or "none"
        raise NsoptError(f"choose a study with --name: stored are {known}")
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
    """Open or create the study `name`. Raises NsoptError if other settings wrote it."""
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
    """Raise NsoptError, with the differences, if `study` was written by other settings.

    It ignores attributes of the data that an older version did not store, and settings that an
    older version stored with a search although the search does not depend on them.
    """
    theirs = schema.read_settings(study)
    if schema.is_search(schema.split_name(study.study_name)[1]):
        theirs = {name: value for name, value in theirs.items() if name in ours}
    data = {name: value for name, value in ours["data"].items() if name in theirs["data"]}
    found = differences({**ours, "data": data}, theirs)
    if found:
        raise NsoptError(
            f"{study.study_name} was written by other settings ({'; '.join(found)}): "
            "give the same settings, or another --out or --storage"
        )


def has_unfinished(study: Study) -> bool:
    """Return whether trials are waiting or running."""
    states = (TrialState.WAITING, TrialState.RUNNING)
    return bool(study.get_trials(deepcopy=False, states=states))
