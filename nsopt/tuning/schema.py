"""How results lie in Optuna storage: the only place that names studies and attributes.

One study per method, `ARCH-DATA-PRESET/METHOD`, and one for the search, all with the same two
objectives. A trial's point (what to run) is set when it is enqueued, its outcome when it ends.
"""

import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial

from nsopt.data.source import Source, Subset
from nsopt.pruning.record import Iteration
from nsopt.scaling.power_law import PowerLaw

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
METRIC_NAMES = ("validation accuracy (%)", "latency (ms)")
SEARCH_METRIC_NAMES = ("lowest r2 of a layer", "seconds")
SEARCH = "search"
TUNING = "-tune"
ERROR = "error"
WORKER = "worker"
BUDGET = "budget"
OUTCOME_COLUMNS = (
    "method",
    "ratio",
    "metric",
    "budget",
    "seed",
    "params",
    "macs",
    "latency_ms",
    "latency_lower_quartile_ms",
    "latency_upper_quartile_ms",
    "tau",
    "val_accuracy",
    "test_accuracy",
    "test_accuracy_best_epoch",
    "epochs",
    "seconds",
    "feasible",
)
_WIDTH = "width_"
_SETTINGS = "settings"
_PROVENANCE = "provenance"
_SUBJECT = "subject"
_LATENCY = "latency:"
_SOURCE = "source"
_ITERATION = "iteration"
_LAW = "law"
_CURVES = "curves_per_epoch"


@dataclass(frozen=True)
class Point:
    """What one trial runs: a method at a budget, with a seed. `ratio` is None for plain budgets."""

    method: str
    metric: str
    budget: int
    seed: int
    ratio: float | None = None

    def attributes(self) -> dict[str, Any]:
        """User attributes that enqueue this point."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def label(self) -> str:
        size = f"{self.budget:,} {self.metric}" if self.ratio is None else f"{self.ratio:g}x"
        return f"{self.method} {size} seed {self.seed}"


@dataclass(frozen=True)
class Subject:
    """What a study is about: network, data and the units of its report."""

    arch: str
    data: str
    classes: int
    image_size: int
    channels: int
    layer_names: tuple[str, ...]
    base_widths: tuple[int, ...]


def study_name(arch: str, data: str, preset: str, method: str) -> str:
    return f"{arch}-{data}-{preset}/{method}"


def width_parameter(layer_name: str) -> str:
    """Optuna parameter that holds a layer's width."""
    return f"{_WIDTH}{layer_name}"


def read_point(trial: FrozenTrial | Trial) -> Point | None:
    """The point of a trial; None if it was not enqueued as one."""
    attributes = trial.user_attrs
    names = ("method", "metric", "budget", "seed")
    if not all(name in attributes for name in names):
        return None
    return Point(**{name: attributes[name] for name in names}, ratio=attributes.get("ratio"))


def write_worker(trial: Trial) -> None:
    """Note which process runs a trial, `HOST:PROCESS`; of a retried one, the last that did."""
    trial.set_user_attr(WORKER, f"{platform.node()}:{os.getpid()}")


def read_widths(trial: FrozenTrial, layer_names: Sequence[str]) -> tuple[int, ...]:
    """Widths of a trial, in forward order."""
    return tuple(trial.params[width_parameter(name)] for name in layer_names)


def write_identity(
    study: Study,
    subject: Subject,
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
    study.set_user_attr(_SUBJECT, asdict(subject))
    study.set_user_attr(_SOURCE, asdict(source))
    study.set_user_attr(_PROVENANCE, dict(provenance))
    study.set_user_attr(_SETTINGS, dict(settings))


def read_settings(study: Study) -> dict[str, Any]:
    return dict(study.user_attrs.get(_SETTINGS, {}))


def read_provenance(study: Study) -> dict[str, Any]:
    return dict(study.user_attrs.get(_PROVENANCE, {}))


def read_subject(study: Study) -> Subject:
    values = dict(study.user_attrs[_SUBJECT])
    for name in ("layer_names", "base_widths"):
        values[name] = tuple(values[name])
    return Subject(**values)


def read_source(study: Study) -> Source:
    """Where the study's images came from."""
    values = dict(study.user_attrs[_SOURCE])
    return Source(**values | {"subset": Subset(**values["subset"])})


def read_latencies(study: Study) -> dict[str, dict[str, Any]]:
    """Measured latencies by `width_key`."""
    return {
        name.removeprefix(_LATENCY): dict(value)
        for name, value in study.user_attrs.items()
        if name.startswith(_LATENCY)
    }


def write_latency(study: Study, widths: Sequence[int], latency: Mapping[str, Any]) -> None:
    """An attribute of its own, so that two processes can write at once."""
    study.set_user_attr(f"{_LATENCY}{width_key(widths)}", dict(latency))


def width_key(widths: Sequence[int]) -> str:
    return "-".join(str(width) for width in widths)


def write_outcome(
    trial: Trial, numbers: Mapping[str, Any], curves: Mapping[str, Sequence[float]]
) -> None:
    """numbers: flat values for the columns; curves: one value per epoch each."""
    for name, value in numbers.items():
        trial.set_user_attr(name, value)
    trial.set_user_attr(_CURVES, {name: list(values) for name, values in curves.items()})


def read_curves(trial: FrozenTrial) -> dict[str, list[float]]:
    """Per-epoch training loss, validation and test accuracy."""
    return dict(trial.user_attrs.get(_CURVES, {}))


def write_failure(trial: Trial, error: Exception) -> None:
    trial.set_user_attr(ERROR, str(error))


def iteration_attributes(iteration: Iteration, number: int) -> dict[str, Any]:
    """User attributes of a completed trial of the search study. number: from 1."""
    flat = {
        "method": SEARCH,
        "iteration_number": number,
        "seconds": iteration.seconds,
        "rows": len(iteration.record.tau),
        "lowest_r2": float(iteration.law.r2.min()),
    }
    return flat | {_ITERATION: iteration.to_dict()}


def write_law(study: Study, law: PowerLaw) -> None:
    """Keep a law with the study that is about it."""
    study.set_user_attr(_LAW, law.to_dict())


def read_law(study: Study) -> PowerLaw | None:
    """What `write_law` kept, if it did."""
    stored = study.user_attrs.get(_LAW)
    return PowerLaw.from_dict(stored) if stored else None


def write_iteration(trial: Trial, iteration: Iteration) -> None:
    """Keep a search with the trial that needed it."""
    trial.set_user_attr(_ITERATION, iteration.to_dict())


def read_iteration(trial: FrozenTrial) -> Iteration:
    """What `write_iteration` kept."""
    return Iteration.from_dict(trial.user_attrs[_ITERATION])


def read_iterations(study: Study) -> list[Iteration]:
    """The iterations of a search study, first to last."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if _ITERATION in trial.user_attrs]
    ordered = sorted(trials, key=lambda trial: trial.user_attrs["iteration_number"])
    return [Iteration.from_dict(trial.user_attrs[_ITERATION]) for trial in ordered]
