"""From the options of a command to a task, its sizes, and the place where it is worked on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from rich.text import Text

from nsopt.cli.console import console, tell_what_is_fixed
from nsopt.cli.options import PlaceOptions, SizeOptions, TaskOptions
from nsopt.compute.checkpoint import weights_checksum
from nsopt.compute.device import resolve_compute
from nsopt.data.registry import load_source
from nsopt.data.source import Source, Subset
from nsopt.deployment.trained import load_trained
from nsopt.errors import NsoptError
from nsopt.files import check_writable
from nsopt.models.architecture import Architecture
from nsopt.models.registry import check_name, get_architecture
from nsopt.scaling.metric import Metric, get_metric
from nsopt.storage.opening import is_empty, storage_errors
from nsopt.storage.urls import storage_file
from nsopt.study.comparison import Size, sizes_of_budgets, sizes_of_ratios
from nsopt.study.precision import with_precision
from nsopt.study.presets import Preset, StudySettings, get_preset, override
from nsopt.study.task import Task
from nsopt.study.workspace import Workspace

_RUNS = Path("runs")


def preset_of(options: TaskOptions) -> Preset:
    """The preset for the data; NsoptError for an unknown one."""
    return get_preset(options.preset, options.data)


def preset_and_metric(task: TaskOptions, sizes: SizeOptions) -> tuple[Preset, Metric]:
    """The preset and what the budgets limit; NsoptError also for sizes that are none, so that
    mistakes are told before anything is measured."""
    metric = get_metric(sizes.metric)
    _read_sizes(sizes, metric)
    return preset_of(task), metric


def prepare(
    options: TaskOptions,
    place: PlaceOptions,
    settings: StudySettings,
    workers: int = 1,
    start: Path | None = None,
) -> tuple[Task, Workspace]:
    """Check the options, load the data, and the weights in the file `start` if one is given."""
    check_name(options.arch)
    resolve_compute(settings.training.device, settings.training.precision)
    check_writable(place.out or _RUNS, "--out")
    file = storage_file(place.storage) if place.storage else None
    if file is not None:
        check_writable(file.parent, "--storage")
    subset = Subset(options.classes, options.per_class)
    normalisation = _numbers("--mean", options.mean), _numbers("--std", options.std)
    source = Source(options.data, options.image_size, subset, *normalisation)
    data = load_source(source, options.data_dir)
    arch = get_architecture(options.arch, len(data.classes), data.image_size, data.channels)
    trained = None if start is None else load_trained(start, arch)
    if trained is not None:
        settings = settings.updated(start=weights_checksum(trained))
    task = Task(arch, data, source, settings, trained)
    folder = place.out or _RUNS / task.name
    url = place.storage or f"sqlite:///{folder / 'study.db'}"
    if is_empty(url):
        console.print(
            f"{storage_file(url)} is empty: a new storage begins in it",
            markup=False,
            soft_wrap=True,
        )
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    workspace = Workspace(url, folder, options.data_dir, workers)
    with storage_errors(url):
        return with_precision(task, workspace), workspace


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """The numbers of a list separated by commas. Raises NsoptError for anything else."""
    try:
        return None if text is None else tuple(float(word) for word in words(text))
    except ValueError:
        raise NsoptError(f"{option} {text!r} is no list of numbers: write 0.5,0.5,0.5") from None


def settings_of(preset: Preset, *changes: dict[str, dict[str, Any]]) -> StudySettings:
    """The settings of a preset with changes, the later ones last; NsoptError for what excludes
    each other."""
    settings = preset.settings
    for change in changes:
        settings = override(settings, change)
    if settings.eta is not None and (settings.multiple_of or settings.min_width):
        raise NsoptError("Algorithm 3 knows no --multiple-of or --min-width: leave --eta out")
    return settings


def announce(
    task: Task, preset: Preset, verbose: bool = False, searches_only: bool = False
) -> None:
    """Say what will run. verbose: with all settings; searches_only: without what nothing trains."""
    parts = ("search",) if searches_only else ("search", "training")
    question = "" if searches_only else f": {preset.question}"
    console.print(Text.assemble((task.name, "bold"), question))
    tell_what_is_fixed(task.arch.summary())
    search, training = task.settings.search, task.settings.training
    every = "batch" if search.prune_every == 1 else f"{search.prune_every} batches"
    in_short = {
        "search": f"{_epochs(search.pretrain_epochs)}, then a prune step every {every} "
        f"of {search.batch_size}",
        "training": f"{_epochs(training.epochs)}, batches of {training.batch_size}, "
        f"learning rate {training.lr:g}",
    }
    said = "; ".join(f"{part}: {in_short[part]}" for part in parts)
    console.print(said, style="dim")
    for part in parts if verbose else ():
        values = getattr(task.settings, part).model_dump(exclude_none=True)
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in values.items())
        console.print(f"{part}: {shown}", style="dim")


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return " ".join(_shown(part) for part in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def words(text: str) -> list[str]:
    """The parts of a list separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def sizes_of(
    options: SizeOptions, arch: Architecture, metric: Metric, default_ratios: Sequence[float]
) -> tuple[Size, ...]:
    """The sizes that were asked for; NsoptError for what is none, or cannot be met."""
    budgets, ratios = _read_sizes(options, metric)
    if budgets:
        return sizes_of_budgets(arch, metric, budgets)
    return sizes_of_ratios(arch, metric, ratios or default_ratios)


def _read_sizes(options: SizeOptions, metric: Metric) -> tuple[list[float], list[float]]:
    """The budgets and the width ratios that were given; NsoptError for what is neither."""
    if options.ratios is not None and options.budgets is not None:
        raise NsoptError("give --ratios or --budgets, not both")
    budgets = [metric.read(word) for word in words(options.budgets or "")]
    return budgets, [_ratio(word) for word in words(options.ratios or "")]


def _ratio(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise NsoptError(f"{text!r} is not a width ratio: write 0.25 or 2") from None
