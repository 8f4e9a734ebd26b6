"""Find the studies of a storage by name; open one only with the settings that created it.

Also what was timed, in the studies of a task.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from nsopt.data.source import Source
from nsopt.errors import NsoptError
from nsopt.latency.record import Latency, Store
from nsopt.settings import differences
from nsopt.storage import schema


class ListedStudy(Study):
    """A study with the attributes from a listing of all studies: reading them needs no query.

    `set_user_attr` changes both the storage and this copy.
    """

    def __init__(self, name: str, storage: BaseStorage, attributes: dict[str, Any]) -> None:
        super().__init__(name, storage, RandomSampler())
        self._listed = attributes

    @property
    def user_attrs(self) -> dict[str, Any]:
        return self._listed

    def set_user_attr(self, key: str, value: Any) -> None:
        super().set_user_attr(key, value)
        self._listed[key] = value


def load_studies(storage: BaseStorage, prefix: str) -> dict[str, Study]:
    """Return nsopt's studies `prefix/METHOD` by method, with their current attributes."""
    return {
        schema.split_name(name)[1]: ListedStudy(name, storage, attributes)
        for name, attributes in _list_ours(storage).items()
        if schema.split_name(name)[0] == prefix
    }


def comparisons(storage: BaseStorage) -> list[str]:
    """Return the names of nsopt's comparisons and searches in a storage."""
    return [prefix for prefix in _list_prefixes(storage) if not schema.is_tuning(prefix)]


def _list_prefixes(storage: BaseStorage) -> list[str]:
    return sorted({schema.split_name(name)[0] for name in _list_ours(storage)})


def _list_ours(storage: BaseStorage) -> dict[str, dict[str, Any]]:
    """Return the attributes of nsopt's studies, in the order of their names."""
    by_name = {study.study_name: study.user_attrs for study in storage.get_all_studies()}
    return {name: by_name[name] for name in sorted(by_name) if schema.is_ours(by_name[name])}


def only_comparison(storage: BaseStorage) -> str:
    """Return the name of the only comparison. Raises NsoptError unless there is exactly one."""
    names = comparisons(storage)
    if not names:
        also = ", only tunings, which optuna-dashboard shows" if _list_prefixes(storage) else ""
        raise NsoptError(f"the storage has no study of nsopt{also}: run nsopt study first")
    if len(names) > 1:
        raise NsoptError(f"choose a study with name=: stored are {', '.join(names)}")
    return names[0]


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
    """Open or create the study `name`.

    Raises:
        NsoptError: if other settings wrote it, or if it has trials and nsopt did not make it.
    """
    study = optuna.create_study(
        study_name=name, storage=storage, directions=directions, load_if_exists=True
    )
    # Before the settings, which nsopt writes first.
    is_used = bool(study.get_trials(deepcopy=False))
    if not check_settings(study, settings):
        if is_used:
            raise NsoptError(
                f"a study {name!r} exists, and nsopt did not make it: give another storage="
            )
        schema.write_identity(study, task, source, settings, provenance, metric_names)
    return study


def check_settings(study: Study, ours: Mapping[str, Any]) -> bool:
    """Check that a study was written with the settings `ours`; return False if it has none.

    Raises:
        NsoptError: if other settings wrote the study; it lists the differences.
    """
    theirs = schema.read_settings(study)
    if changes := theirs and differences(dict(ours), theirs):
        raise NsoptError(
            f"{study.study_name} was written by other settings ({'; '.join(changes)}): "
            "give the same settings, or another out= or storage="
        )
    return bool(theirs)


def is_unfinished(stored: Iterable[FrozenTrial]) -> bool:
    return not all(trial.state.is_finished() for trial in stored)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's log of studies: `progress` reports what happens."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class StoredTimings(Store):
    """A `Store` that writes to one study, and also reads the others of its task.

    Args:
        study: receives latencies and chosen widths.
        others: returns the other studies of the task.
    """

    def __init__(self, study: Study, others: Callable[[], Iterable[Study]] = lambda: ()) -> None:
        self._study, self._others = study, others

    def read(self) -> list[Latency]:
        studies = {study.study_name: study for study in (self._study, *self._others())}
        return [latency for study in studies.values() for latency in schema.read_latencies(study)]

    def write(self, latency: Latency) -> None:
        schema.write_latency(self._study, latency)

    def read_widths(self, budget: Sequence[object]) -> tuple[int, ...] | None:
        known = map(schema.widths_at(budget).read, (self._study, *self._others()))
        return next((widths for widths in known if widths is not None), None)

    def write_widths(self, budget: Sequence[object], widths: tuple[int, ...]) -> None:
        schema.widths_at(budget).write(self._study, widths)
