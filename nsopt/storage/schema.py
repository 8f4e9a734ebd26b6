"""How results lie in Optuna storage: studies here, their trials in storage/trials.py.

No other file names studies and attributes. One study per method, `ARCH-DATA-PRESET/METHOD`, one for
the search, all with the same two objectives, and those of tuning, `ARCH-DATA-PRESET-tune/KIND`.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.study import Study, StudyDirection

from nsopt.data.source import Source, Subset
from nsopt.scaling.law import PowerLaw
from nsopt.storage.internals import FrozenStudy

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
METRIC_NAMES = ("validation accuracy (%)", "latency (ms)")
SEARCH_METRIC_NAMES = ("lowest r2 of a layer", "seconds")
SEARCH = "search"
BASE = "base"  # in place of a method, in the names of folders: the networks that methods start from
PRETRAINED = "pretrained"  # likewise: the network that searches of several prices begin with
_OTHER_SEARCH = "search-"
# As searches did before.
_SINCE_0_1 = {"search_images": None, "price": "filters", "importance_decay": 0.0}
_TUNING = "-tune"
_SETTINGS = "settings"
_PROVENANCE = "provenance"
_SUBJECT = "subject"
_LATENCY = "latency:"
_LATENCY_MODEL = "latency_model"
_REFERENCES = "references:"
_SOURCE = "source"
_LAW = "law"
_VERDICT = "verdict"


@dataclass(frozen=True)
class TaskDescription:
    """Network and data of a study, in the words of a report. fixed: what of the network stays as it
    is, in one line; empty where nothing does."""

    arch: str
    data: str
    classes: int
    image_size: int
    channels: int
    layer_names: tuple[str, ...]
    base_widths: tuple[int, ...]
    fixed: str = ""


def comparison_name(arch: str, data: str, preset: str) -> str:
    """What the names of the studies of a comparison begin with."""
    return f"{arch}-{data}-{preset}"


def study_name(prefix: str, kind: str) -> str:
    """The name of a study. prefix: of a comparison, or of the tuning beside it; kind: a method, the
    search, or what is tuned."""
    return f"{prefix}/{kind}"


def split_name(name: str) -> tuple[str, str]:
    """The prefix and the kind that `study_name` put together."""
    prefix, _, kind = name.rpartition("/")
    return prefix, kind


def tuning_name(comparison: str) -> str:
    """What the names of the tuning studies beside a comparison begin with."""
    return f"{comparison}{_TUNING}"


def curve_kind(metric: str) -> str:
    """The kind of the tuning study whose law is for budgets in a metric."""
    return f"curve-{metric}"


def is_curve(kind: str) -> bool:
    """Whether the tuning study of this kind ends with a law, or confirms one."""
    return kind.startswith(curve_kind(""))


def confirmation_name(study: str) -> str:
    """The name of the study that confirms what the tuning `study` found."""
    return f"{study}-confirmed"


def is_tuning(prefix: str) -> bool:
    return prefix.endswith(_TUNING)


def search_kind(price: str, usual: str) -> str:
    """The kind of the study of a search with a price. usual: the price of the task's settings."""
    return SEARCH if price == usual else f"{_OTHER_SEARCH}{price}"


def is_search(kind: str) -> bool:
    return kind == SEARCH or kind.startswith(_OTHER_SEARCH)


def is_reserved(kind: str) -> bool:
    """Whether a kind is one of nsopt's own, so that no method can have its name."""
    return is_search(kind) or kind in (BASE, PRETRAINED)


def price_of_search(kind: str) -> str | None:
    """The price that the kind of a search's study names; None where it is the settings' own."""
    return kind.removeprefix(_OTHER_SEARCH) if kind.startswith(_OTHER_SEARCH) else None


def search_label(kind: str) -> str:
    """What a report calls a search."""
    price = price_of_search(kind)
    return "the search" if price is None else f"the search by {price}"


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
    """Mark a new study with what it is about, its settings and where its numbers come from.

    The settings come last: a study that has them has everything.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(metric_names))
    study.set_user_attr(_SUBJECT, asdict(task))
    study.set_user_attr(_SOURCE, asdict(source))
    study.set_user_attr(_PROVENANCE, dict(provenance))
    study.set_user_attr(_SETTINGS, dict(settings))


def read_settings(study: Study) -> dict[str, Any]:
    """Everything that decides its numbers; empty for a study that nsopt did not make."""
    settings = dict(study.user_attrs.get(_SETTINGS, {}))
    if "search" in settings:
        settings["search"] = _SINCE_0_1 | settings["search"]
    for name, part in settings.items():
        if isinstance(part, dict) and part.get("resized_crop") is not None:
            settings[name] = {"crop_version": 1} | part
    return settings


def is_ours(study: FrozenStudy) -> bool:
    """Whether nsopt made a study."""
    return _SETTINGS in study.user_attrs


def read_provenance(study: Study) -> dict[str, Any]:
    return dict(study.user_attrs.get(_PROVENANCE, {}))


def read_task(study: Study) -> TaskDescription:
    values = dict(study.user_attrs[_SUBJECT])
    for name in ("layer_names", "base_widths"):
        values[name] = tuple(values[name])
    return TaskDescription(**values)


def read_source(study: Study) -> Source:
    """Where the study's images came from."""
    values = dict(study.user_attrs[_SOURCE])
    for name in ("mean", "std"):
        values[name] = tuple(values[name]) if values.get(name) else None
    return Source(**values | {"subset": Subset(**values["subset"])})


def read_latency(
    study: Study, widths: Sequence[int], conditions: dict[str, Any]
) -> dict[str, Any] | None:
    """The latency of these widths that was measured under `conditions`; None if there is none."""
    wanted = conditions | {"widths": width_key(widths)}
    for name, value in study.user_attrs.items():
        if name.startswith(_LATENCY) and wanted.items() <= value.items():
            return {key: part for key, part in value.items() if key != "widths"}
    return None


def read_latencies(study: Study) -> list[dict[str, Any]]:
    """All latencies that a study holds, whatever their conditions; `widths` is a `width_key`."""
    return [dict(value) for name, value in study.user_attrs.items() if name.startswith(_LATENCY)]


def write_latency(
    study: Study, widths: Sequence[int], conditions: Mapping[str, Any], latency: Mapping[str, Any]
) -> None:
    """An attribute of its own for widths and conditions: two processes can write at once."""
    value = {**latency, "widths": width_key(widths)}
    digest = _short_digest((value["widths"], sorted(conditions.items())))
    study.set_user_attr(f"{_LATENCY}{digest}", value)


def write_latency_model(study: Study, model: Mapping[str, Any]) -> None:
    """Keep the latency model that decides the widths of a study at budgets in milliseconds."""
    study.set_user_attr(_LATENCY_MODEL, dict(model))


def read_latency_model(study: Study) -> dict[str, Any] | None:
    """What `write_latency_model` kept, if it did."""
    return study.user_attrs.get(_LATENCY_MODEL)


def write_references(study: Study, asked: Sequence[float], budgets: Sequence[int]) -> None:
    """Keep the budgets of the reference networks that span others. asked: what decides them, but
    for latencies, which may be measured again."""
    study.set_user_attr(_references(asked), list(budgets))


def read_references(study: Study, asked: Sequence[float]) -> list[int] | None:
    """What `write_references` kept, if it did."""
    return study.user_attrs.get(_references(asked))


def _references(asked: Sequence[float]) -> str:
    return f"{_REFERENCES}{_short_digest(list(asked))}"


def _short_digest(value: Any) -> str:
    """For the name of an attribute: these must be short."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def write_law(study: Study, law: PowerLaw) -> None:
    """Keep a law with the study that is about it."""
    study.set_user_attr(_LAW, law.to_dict())


def write_verdict(study: Study, verdict: str) -> None:
    """Keep, in words, what a tuning study ended with."""
    study.set_user_attr(_VERDICT, verdict)


def read_verdict(study: Study) -> str | None:
    """What `write_verdict` kept, if it did."""
    return study.user_attrs.get(_VERDICT)


def read_law(study: Study) -> PowerLaw | None:
    """What `write_law` kept, if it did."""
    stored = study.user_attrs.get(_LAW)
    return PowerLaw.from_dict(stored) if stored else None
