"""The schema of results in Optuna storage: studies here, trials in storage/trials.py.

Only this package reads attributes (`tests/test_imports.py` checks it). Each method, and the
search, has a study `ARCH-DATA-PRESET/METHOD`; all of these have the same two objectives. Tuning
studies have the names `ARCH-DATA-PRESET-tune/KIND`.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, Generic, TypeVar

from optuna.exceptions import ExperimentalWarning
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial
from pydantic import (
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from nsopt.data.source import Source
from nsopt.errors import NsoptError, StorageError, short_reason
from nsopt.latency.record import CONDITIONS, Latency
from nsopt.scaling.law import PowerLaw
from nsopt.storage.internals import trial_id

T = TypeVar("T")
Owner = Study | FrozenTrial | Trial
DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
SEARCH_METRIC_NAMES = ("lowest r2 of a layer", "seconds")
SEARCH = "search"
# Folders of networks, beside those with the names of methods.
BASE = "base"  # the networks from which methods start
PRETRAINED = "pretrained"  # the network from which searches with several prices start
# Networks of a compression: the trained one, uniform widths (both are methods, too), those that a
# ranking of units leaves, and those halfway between them and uniform ones.
DENSE, UNIFORM = "dense", "uniform"
FIT, TAYLOR, HALFWAY = "fit", "taylor", "-halfway"
RANKED = FIT, f"{FIT}{HALFWAY}", TAYLOR, f"{TAYLOR}{HALFWAY}"
_OTHER_SEARCH, _TUNING = "search-", "-tune"

Law = Annotated[PowerLaw, PlainValidator(PowerLaw.from_dict), PlainSerializer(PowerLaw.to_dict)]


@dataclass(frozen=True)
class TaskDescription:
    """Network and data of a study, as reports print them.

    Attributes:
        classes: number of classes of images; None for other tasks, as are the next two.
        image_size: side of the images, in pixels.
        channels: channels of the images.
        score_name: name of the score, with its unit; empty for the accuracy of images.
        has_test: whether networks have a test score.
        fixed: one line about layers with fixed widths, or empty.
        base_params: parameters of the network at its base widths; None if unknown.
        base_macs: its MACs; None if unknown.
        code: checksum of the classes of its modules; None for networks from tables.
    """

    arch: str
    data: str
    layer_names: tuple[str, ...]
    base_widths: tuple[int, ...]
    classes: int | None = None
    image_size: int | None = None
    channels: int | None = None
    score_name: str = ""
    has_test: bool = True
    fixed: str = ""
    base_params: int | None = None
    base_macs: int | None = None
    code: int | None = None

    @property
    def validation_name(self) -> str:
        """The name of the score that selects networks, for titles and axes."""
        return self.score_name or "validation accuracy (%)"

    @property
    def unit(self) -> str:
        """The unit of scores, after a number."""
        return "" if self.score_name else " %"


@dataclass(frozen=True)
class _Settings:
    """The settings of a study that nsopt reads by name."""

    preset: str
    search: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None
    runtime: str = "torch"
    latency_batch_size: int = 100


@dataclass(frozen=True)
class StoredCandidate:
    """Widths that a compression compared at a budget.

    Attributes:
        name: of the study of their networks: `UNIFORM`, or one of `RANKED`.
        agreement: of their fitted network with the trained one (%).
        trained: whether they were chosen, to train them if there are epochs.
    """

    name: str
    widths: tuple[int, ...]
    agreement: float
    trained: bool


@dataclass(frozen=True)
class NetworkRow:
    """A network of a compression.

    Attributes:
        budget: as the user wrote it; `100%` for the trained network, which is the first.
        widths_by: the name of their study; `DENSE` for the trained network.
        agreement: of the fitted network before training (%); None for the trained one.
        score: of the validation.
        error: standard error of a validation accuracy, in points; None for other scores.
        test_score: None without a test.
        latency_ms: milliseconds per batch; None if it was not timed.
        epochs: of training so far; `planned` ones are more only after an interruption.
        files: names of its files, and why one is missing.
    """

    budget: str
    widths_by: str
    agreement: float | None
    score: float
    error: float | None
    test_score: float | None
    latency_ms: float | None
    params: int
    macs: int
    epochs: int
    planned: int
    files: str = ""


@contextmanager
def damage(owner: Owner, name: str) -> Iterator[None]:
    """Turn errors of the block into an NsoptError that names the damaged value and its owner."""
    try:
        yield
    except StorageError:  # it cannot be read at all
        raise
    except Exception as error:
        where = (
            f"study {owner.study_name}"
            if isinstance(owner, Study)
            else f"trial {owner.number} (trial_id {trial_id(owner)})"
        )
        raise NsoptError(
            f"{where}: its {name!r} is damaged ({_describe(error)}): restore the storage from a "
            "copy, or start again with another out= or storage="
        ) from None


def _describe(error: Exception) -> str:
    if isinstance(error, ValidationError):
        last = error.errors(include_url=False, include_input=False)[-1]
        return ": ".join([*map(str, last["loc"]), last["msg"].lower()])
    return short_reason(error)


def read(owner: Owner, name: str, kind: Any, values: Mapping[str, Any] | None = None) -> Any:
    """Return a value of a study or a trial.

    Args:
        kind: the type that the value must have, as JSON.
        values: where to find it; by default in the attributes of the owner.

    Raises:
        NsoptError: if it is missing or of another type.
    """
    with damage(owner, name):
        value = (owner.user_attrs if values is None else values).get(name)
        return _make_reader(kind).validate_json(json.dumps(value), strict=True)


@cache
def _make_reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class Attribute(Generic[T]):
    """An attribute of studies or trials; pydantic reads and writes its value as a type, `kind`."""

    def __init__(self, name: str, kind: Any) -> None:
        self.name, self._kind = name, kind

    def read(self, owner: Owner) -> T | None:
        """Return the value; None if it is missing. Raises NsoptError if it is damaged."""
        value: T | None = read(owner, self.name, self._kind | None)
        return value

    def write(self, owner: Study | Trial, value: T) -> None:
        owner.set_user_attr(self.name, _make_reader(self._kind).dump_python(value, mode="json"))


_TIMED, _CANDIDATES = "latency:", "candidates:"
_SUBJECT, _SOURCE, _SETTINGS, _LATENCY_MODEL = "subject", "source", "settings", "latency_model"
_PROVENANCE = Attribute[dict[str, Any]]("provenance", dict[str, Any])
_NETWORKS = Attribute[Sequence[NetworkRow]]("networks", list[NetworkRow])
_LAW = Attribute[PowerLaw]("law", Law)
read_law, write_law = _LAW.read, _LAW.write


def study_name(prefix: str, kind: str) -> str:
    """Return the name of a study. `kind` is a method, a search, or the subject of tuning."""
    return f"{prefix}/{kind}"


def split_name(name: str) -> tuple[str, str]:
    prefix, _, kind = name.rpartition("/")
    return prefix, kind


def tuning_name(comparison: str) -> str:
    """Return the prefix of the names of a comparison's tuning studies."""
    return f"{comparison}{_TUNING}"


def is_tuning(prefix: str) -> bool:
    return prefix.endswith(_TUNING)


def search_kind(price: str, usual: str) -> str:
    """Return the kind of a search by `price`. `usual` is the price in the settings."""
    return SEARCH if price == usual else f"{_OTHER_SEARCH}{price}"


def is_search(kind: str) -> bool:
    return kind == SEARCH or kind.startswith(_OTHER_SEARCH)


def is_reserved(kind: str) -> bool:
    """Return whether nsopt uses a kind itself; no method can have such a name."""
    return is_search(kind) or kind in (BASE, PRETRAINED, *RANKED)


def price_of_search(kind: str) -> str | None:
    """Return the price in the kind of a search; None if it has the price of the settings."""
    return kind.removeprefix(_OTHER_SEARCH) if kind.startswith(_OTHER_SEARCH) else None


def width_key(widths: Sequence[int]) -> str:
    return "-".join(str(width) for width in widths)


def write_identity(
    study: Study,
    task: TaskDescription,
    source: Source,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    metric_names: Sequence[str],
) -> None:
    """Write the attributes of a new study.

    The settings come last, so that a study with settings is complete.
    """
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        study.set_metric_names(list(metric_names))
    study.set_user_attr(_SUBJECT, asdict(task))
    study.set_user_attr(_SOURCE, asdict(source))
    _PROVENANCE.write(study, dict(provenance))
    study.set_user_attr(_SETTINGS, dict(settings))


def read_settings(study: Study) -> dict[str, Any]:
    """Return all settings that affect a study's numbers; empty if nsopt did not create it."""
    attributes = study.user_attrs
    if not is_ours(attributes):
        return {}
    read(study, _SETTINGS, _Settings, attributes)
    return dict(attributes[_SETTINGS])


def is_ours(attributes: Mapping[str, Any]) -> bool:
    """Return whether nsopt created the study with these attributes."""
    return _SETTINGS in attributes


def read_provenance(study: Study) -> dict[str, Any]:
    return _PROVENANCE.read(study) or {}


def read_task(study: Study) -> TaskDescription:
    task: TaskDescription = read(study, _SUBJECT, TaskDescription)
    with damage(study, _SUBJECT):
        dict(zip(task.layer_names, task.base_widths, strict=True))
    return task


def read_source(study: Study) -> Source:
    source: Source = read(study, _SOURCE, Source)
    return source


def read_latencies(study: Study) -> list[Latency]:
    """Return all latencies of networks, under any conditions."""
    latencies = [read(study, name, Latency) for name in study.user_attrs if name.startswith(_TIMED)]
    return [latency for latency in latencies if latency.widths]


def write_latency(study: Study, latency: Latency) -> None:
    """Store the latency of a network, in place of an earlier one under the same conditions.

    It has its own attribute, so that two processes may write at the same time.
    """
    value = asdict(latency) | {"widths": list(latency.widths)}
    conditions = [value[name] for name in CONDITIONS]
    study.set_user_attr(f"{_TIMED}{_make_digest((value['widths'], conditions))}", value)


def widths_at(budget: Sequence[Any]) -> Attribute[tuple[int, ...]]:
    """Return the attribute of widths that were found once; `budget` is all that decides them."""
    return Attribute(f"widths:{_make_digest(list(budget))}", tuple[PositiveInt, ...])


def write_latency_model(study: Study, model: Mapping[str, Any]) -> None:
    """Store the latency model with which a study solves budgets in milliseconds, if it has none."""
    if _LATENCY_MODEL not in study.user_attrs:
        study.set_user_attr(_LATENCY_MODEL, dict(model))


def read_latency_model(study: Study, make: Callable[[dict[str, Any]], T]) -> T | None:
    """Return the stored latency model, converted by `make`; None without a stored model."""
    stored = study.user_attrs.get(_LATENCY_MODEL)
    with damage(study, _LATENCY_MODEL):
        return None if stored is None else make(stored)


def _make_digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def read_networks(study: Study) -> Sequence[NetworkRow]:
    """Return the networks of a compression, stored with the study of the trained one."""
    return _NETWORKS.read(study) or []


def write_networks(study: Study, rows: Sequence[NetworkRow]) -> None:
    """Store the networks of a compression; rows at other budgets stay."""
    table = {row.budget: row for row in (*read_networks(study), *rows)}
    _NETWORKS.write(study, list(table.values()))


def read_candidates(study: Study, metric: str, budget: float) -> Sequence[StoredCandidate]:
    """Return the candidates at a budget, the best first; none before they were compared."""
    return _candidates(metric, budget).read(study) or []


def write_candidates(
    study: Study, metric: str, budget: float, candidates: Sequence[StoredCandidate]
) -> None:
    """Store the candidates of a compression at a budget with the study of the trained network."""
    _candidates(metric, budget).write(study, candidates)


def is_compression(studies: Mapping[str, Study]) -> bool:
    """Return whether the studies of a subject are those of a compression."""
    attributes = studies[DENSE].user_attrs if DENSE in studies else {}
    return any(name.startswith(_CANDIDATES) for name in attributes)


def _candidates(metric: str, budget: float) -> Attribute[Sequence[StoredCandidate]]:
    return Attribute(f"{_CANDIDATES}{metric}-{budget:.17g}", list[StoredCandidate])
