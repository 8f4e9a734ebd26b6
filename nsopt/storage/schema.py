"""The schema of results in Optuna storage: studies here, trials in storage/trials.py.

Only this package reads attributes (`tests/test_imports.py` checks it). Each method, and the
search, has a study `ARCH-DATA-PRESET/METHOD`; all of these have the same two objectives. Tuning
studies have the names `ARCH-DATA-PRESET-tune/KIND`.
"""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

from optuna.exceptions import ExperimentalWarning
from optuna.study import Study, StudyDirection
from pydantic import Field, PositiveInt

from nsopt.data.source import Source
from nsopt.latency.sittings import Latency
from nsopt.scaling.law import PowerLaw
from nsopt.storage.reading import damage, read, read_optional

T = TypeVar("T")
DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
SEARCH_METRIC_NAMES = ("lowest r2 of a layer", "seconds")
SEARCH = "search"
# Folders of networks, beside those with the names of methods.
BASE = "base"  # the networks from which methods start
PRETRAINED = "pretrained"  # the network from which searches with several prices start
# Networks of a compression: the trained one, and the two kinds of widths that it fine-tunes. The
# first two are methods, too.
DENSE, UNIFORM, SCORED = "dense", "uniform", "scored"
_OTHER_SEARCH = "search-"
_TUNING = "-tune"
_SCORES = "scores-"
_SETTINGS = "settings"
_PROVENANCE = "provenance"
_SUBJECT = "subject"
_LATENCY = "latency:"
_LATENCY_MODEL = "latency_model"
_TIMING = "timing:"
_WIDTHS_IN_TIME = "widths_in_time:"
_REFERENCES = "references:"
_SOURCE = "source"
_LAW = "law"
_VERDICT = "verdict"
_INT8 = "int8:"
_NETWORKS = "networks"

WidthKey = Annotated[str, Field(pattern=r"^[1-9]\d*(-[1-9]\d*)*$")]


@dataclass(frozen=True)
class _Verdict:
    """What scores say, and the number of the best trial."""

    best: int
    text: str


@dataclass(frozen=True)
class TaskDescription:
    """Network and data of a study, as reports print them.

    Attributes:
        arch: name of the architecture.
        data: name of the data set.
        classes: number of classes of images; None for other tasks, as are the next two.
        image_size: side of the images, in pixels.
        channels: channels of the images.
        score_name: name of the score, with its unit; empty for the accuracy of images.
        has_test: whether networks have a test score.
        layer_names: names of the searched layers.
        base_widths: widths of the original network.
        fixed: one line about layers with fixed widths, or empty.
        base_params: parameters of the network at its base widths; None if unknown.
        base_macs: its MACs; None if unknown.
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

    @property
    def validation_name(self) -> str:
        """The name of the score that selects networks, for titles and axes."""
        return self.score_name or "validation accuracy (%)"

    @property
    def test_name(self) -> str:
        """The name of the score that is only reported."""
        return f"test {self.score_name}" if self.score_name else "test accuracy (%)"

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


def comparison_name(arch: str, data: str, preset: str) -> str:
    """Return the prefix of the names of a comparison's studies."""
    return f"{arch}-{data}-{preset}"


def study_name(prefix: str, kind: str) -> str:
    """Return the name of a study. `kind` is a method, a search, or the subject of tuning."""
    return f"{prefix}/{kind}"


def split_name(name: str) -> tuple[str, str]:
    """Split a study's name into its prefix and kind."""
    prefix, _, kind = name.rpartition("/")
    return prefix, kind


def tuning_name(comparison: str) -> str:
    """Return the prefix of the names of a comparison's tuning studies."""
    return f"{comparison}{_TUNING}"


def scores_kind(metric: str, budget: float) -> str:
    """Return the kind of the study that scores widths at a budget in a metric."""
    return f"{_SCORES}{metric}-{budget:.17g}"


def is_tuning(prefix: str) -> bool:
    return prefix.endswith(_TUNING)


def search_kind(price: str, usual: str) -> str:
    """Return the kind of a search by `price`. `usual` is the price in the settings."""
    return SEARCH if price == usual else f"{_OTHER_SEARCH}{price}"


def is_search(kind: str) -> bool:
    return kind == SEARCH or kind.startswith(_OTHER_SEARCH)


def is_reserved(kind: str) -> bool:
    """Return whether nsopt uses a kind itself; no method can have such a name."""
    return is_search(kind) or kind in (BASE, PRETRAINED, SCORED)


def price_of_search(kind: str) -> str | None:
    """Return the price in the kind of a search; None if it has the price of the settings."""
    return kind.removeprefix(_OTHER_SEARCH) if kind.startswith(_OTHER_SEARCH) else None


def width_key(widths: Sequence[int]) -> str:
    return "-".join(str(width) for width in widths)


def read_width_key(key: str) -> tuple[int, ...]:
    return tuple(int(width) for width in key.split("-"))


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(metric_names))
    study.set_user_attr(_SUBJECT, asdict(task))
    study.set_user_attr(_SOURCE, asdict(source))
    study.set_user_attr(_PROVENANCE, dict(provenance))
    study.set_user_attr(_SETTINGS, dict(settings))


def read_settings(study: Study) -> dict[str, Any]:
    """Return all settings that affect a study's numbers; empty if nsopt did not create it."""
    attributes = study.user_attrs
    if _SETTINGS not in attributes:
        return {}
    read(study, _SETTINGS, _Settings, attributes)
    return dict(attributes[_SETTINGS])


def is_ours(attributes: Mapping[str, Any]) -> bool:
    """Return whether nsopt created the study with these attributes."""
    return _SETTINGS in attributes


def read_provenance(study: Study) -> dict[str, Any]:
    return read_optional(study, _PROVENANCE, dict[str, Any]) or {}


def read_task(study: Study) -> TaskDescription:
    task: TaskDescription = read(study, _SUBJECT, TaskDescription)
    with damage(study, _SUBJECT):
        dict(zip(task.layer_names, task.base_widths, strict=True))
    return task


def read_source(study: Study) -> Source:
    source: Source = read(study, _SOURCE, Source)
    return source


def read_latencies(study: Study) -> list[Latency]:
    """Return all latencies of networks that were timed side by side, under any conditions."""
    return _read_timed(study, _LATENCY)


def write_latency(study: Study, latency: Latency) -> None:
    """Store the latency of a network.

    Each network, condition and sitting has its own attribute, so that two processes may write at
    the same time and earlier measurements stay.
    """
    _write_timed(study, _LATENCY, latency)


def read_timings(study: Study, widths: Sequence[int]) -> list[Latency]:
    """Return the measurements of a network for budgets in milliseconds, under any conditions."""
    return [timing for timing in _read_timed(study, _TIMING) if timing.widths == tuple(widths)]


def write_timing(study: Study, latency: Latency) -> None:
    """Store a measurement for a budget in milliseconds."""
    _write_timed(study, _TIMING, latency)


def _read_timed(study: Study, prefix: str) -> list[Latency]:
    names = [name for name in study.user_attrs if name.startswith(prefix)]
    found = [read(study, name, Latency) for name in names]
    return [latency for latency in found if latency.widths]


def _write_timed(study: Study, prefix: str, latency: Latency) -> None:
    value = asdict(latency) | {"widths": list(latency.widths)}
    conditions = latency.batch_size, latency.device, latency.precision, latency.runtime
    name = f"{prefix}{_make_digest((value['widths'], conditions, latency.sitting))}"
    if study.user_attrs.get(name) != value:
        study.set_user_attr(name, value)


def write_widths_in_time(study: Study, asked: Sequence[Any], widths: Sequence[int]) -> None:
    """Store the widths found for a budget in milliseconds.

    `asked` is everything that determines the widths, except measurements.
    """
    study.set_user_attr(_name_widths_in_time(asked), list(widths))


def read_widths_in_time(study: Study, asked: Sequence[Any]) -> tuple[int, ...] | None:
    name = _name_widths_in_time(asked)
    found: tuple[int, ...] | None = read_optional(study, name, tuple[PositiveInt, ...])
    return found


def _name_widths_in_time(asked: Sequence[Any]) -> str:
    return f"{_WIDTHS_IN_TIME}{_make_digest(list(asked))}"


def write_latency_model(study: Study, model: Mapping[str, Any]) -> None:
    """Store the latency model with which a study solves budgets in milliseconds."""
    study.set_user_attr(_LATENCY_MODEL, dict(model))


def has_latency_model(study: Study) -> bool:
    return _LATENCY_MODEL in study.user_attrs


def read_latency_model(study: Study, make: Callable[[dict[str, Any]], T]) -> T | None:
    """Return the stored latency model, converted by `make`; None without a stored model."""
    stored = study.user_attrs.get(_LATENCY_MODEL)
    with damage(study, _LATENCY_MODEL):
        return None if stored is None else make(stored)


def write_references(study: Study, asked: Sequence[float], budgets: Sequence[int]) -> None:
    """Store the budgets of the reference networks.

    `asked` is everything that determines them, except latencies, which may be measured again.
    """
    study.set_user_attr(_name_references(asked), list(budgets))


def read_references(study: Study, asked: Sequence[float]) -> list[int] | None:
    return read_optional(study, _name_references(asked), list[int])


def _name_references(asked: Sequence[float]) -> str:
    return f"{_REFERENCES}{_make_digest(list(asked))}"


def _make_digest(value: Any) -> str:
    """Return a short digest for the name of an attribute."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def write_int8(study: Study, trial: int, figures: Mapping[str, Any]) -> None:
    """Write accuracies and milliseconds of a trial's network, quantised to 8-bit integers."""
    study.set_user_attr(f"{_INT8}{trial}", dict(figures))


def write_networks(study: Study, rows: Sequence[Mapping[str, str]]) -> None:
    """Store the table of a compression's networks with the study of the trained network."""
    study.set_user_attr(_NETWORKS, list(rows))


def read_networks(study: Study) -> list[dict[str, str]]:
    """Return what `write_networks` stored; empty if it did not."""
    return read_optional(study, _NETWORKS, list[dict[str, str]]) or []


def write_law(study: Study, law: PowerLaw) -> None:
    study.set_user_attr(_LAW, law.to_dict())


def write_verdict(study: Study, best: int, verdict: str) -> None:
    """Store the result of scores as a sentence, with the number of the best trial."""
    study.set_user_attr(_VERDICT, asdict(_Verdict(best, verdict)))


def read_verdict(study: Study, best: int | None = None) -> str | None:
    """Return what `write_verdict` stored; None if it did not, or for another best trial."""
    stored: _Verdict | None = read_optional(study, _VERDICT, _Verdict)
    return None if stored is None or best not in (None, stored.best) else stored.text


def read_law(study: Study) -> PowerLaw | None:
    stored = study.user_attrs.get(_LAW)
    with damage(study, _LAW):
        return None if stored is None else PowerLaw.from_dict(stored)
