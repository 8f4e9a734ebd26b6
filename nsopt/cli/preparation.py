"""Turn the options of a command into a task, its budgets and its workspace."""

from collections.abc import Sequence
from pathlib import Path

import optuna
from rich.text import Text

from nsopt.cli.console import console, tell_what_is_fixed
from nsopt.cli.options import (
    NetworkOptions,
    OutputOptions,
    SizeOptions,
    TrainingOptions,
    refuse_unused,
    split_words,
)
from nsopt.compute.device import resolve_compute
from nsopt.data.images import ImageData
from nsopt.data.registry import load_source
from nsopt.data.source import Source, Subset
from nsopt.deployment.kept import explain_reading, load_trained, require_file
from nsopt.errors import NsoptError
from nsopt.files import RUNS, STUDY_FILE, check_writable
from nsopt.models.architecture import Architecture
from nsopt.scaling.metric import PARAMS
from nsopt.session.presets import StudySettings
from nsopt.session.subject import make_architecture
from nsopt.session.workspace import Workspace
from nsopt.storage.opening import is_empty, sqlite_url, storage_file
from nsopt.tasks.supervise import import_task
from nsopt.tasks.task import Task

_WIDEST_RATIO = 10


def prepare(
    network: NetworkOptions,
    output: OutputOptions,
    settings: StudySettings,
    training: TrainingOptions,
    *,
    workers: int = 1,
    start: Path | None = None,
) -> tuple[Architecture, ImageData | Task, StudySettings, Workspace]:
    """Check the options; load the data, and the trained network, if any, into the settings.

    Args:
        start: a file with its weights. It is looked for before images are loaded.
    """
    resolve_compute(settings.training.device, settings.training.precision)
    check_writable(output.out or RUNS, "--out")
    file = storage_file(output.storage) if output.storage else None
    if file is not None:
        check_writable(file.parent, "--storage")
    if start is not None:
        with explain_reading(start, "torch.save"):
            require_file(start)
    data = _load_data(network)
    if isinstance(data, Task) and data.trainer is not None:
        refuse_unused("with a trainer of your own", vars(training).keys() - {"epochs"}, training)
    arch = make_architecture(network.arch, data)
    if start is not None:
        settings = settings.updated(start=load_trained(start, arch))
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    folder = output.out or RUNS / f"{arch.name}-{data.name}-{settings.preset}"
    url = output.storage or sqlite_url(folder / STUDY_FILE)
    if is_empty(url):
        created = f"{storage_file(url)} is empty: nsopt creates a new storage in it"
        console.print(created, soft_wrap=True)
    return arch, data, settings, Workspace(url, folder, network.data_dir, workers)


def _load_data(options: NetworkOptions) -> ImageData | Task:
    if options.task is not None:
        return import_task(options.task)
    source = Source(
        options.data,
        options.image_size,
        Subset(options.classes, options.per_class),
        _read_numbers("--mean", options.mean),
        _read_numbers("--std", options.std),
        options.split,
        skip_corrupt=options.skip_corrupt,
        mirror=not options.no_mirror,
    )
    data = load_source(source, options.data_dir)
    if data.skipped:
        console.print(f"left out: {'; '.join(data.skipped)}", soft_wrap=True)
    return data


def _read_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(word) for word in split_words(text))
    except ValueError:
        raise NsoptError(f"{option} {text!r}: write numbers such as 0.5,0.5,0.5") from None


def announce(
    arch: Architecture,
    data: ImageData | Task,
    settings: StudySettings,
    question: str,
    verbose: bool = False,
    *,
    parts: Sequence[str] = ("search", "training"),
    starts_trained: bool = False,
) -> None:
    """Print what will run.

    Args:
        question: that the results answer.
        parts: `search`, `training`, or both.
    """
    name = f"{arch.name}-{data.name}-{settings.preset}"
    console.print(Text.assemble((name, "bold"), f": {question}"))
    tell_what_is_fixed(arch.summary())
    if settings.training.epochs:
        summaries = _summarise(settings, data, starts_trained)
        console.print("; ".join(summaries[part] for part in parts), style="dim")
    else:
        console.print("no training: layers are fitted to those of the trained network", style="dim")
    if starts_trained and isinstance(data, ImageData):  # normalised as in its training
        splits = data.split(settings.training.val_fraction)
        mean, std = (",".join(f"{value:.3g}" for value in part) for part in splits.normalisation)
        given = splits.is_normalised_by_user
        of = "as given" if given else "of the training images, or give your own"
        console.print(f"images normalised by --mean {mean} --std {std}, {of}", style="dim")
    for part in parts if verbose else ():
        values = getattr(settings, part).model_dump(exclude_none=True)
        text = ", ".join(f"{name} {_format(value)}" for name, value in values.items())
        console.print(f"{part}: {text}", style="dim")


def _summarise(
    settings: StudySettings, data: ImageData | Task, starts_trained: bool
) -> dict[str, str]:
    """Return the lengths of search and training in words, by part."""
    search, training = settings.search, settings.training
    pretraining = 0 if starts_trained else search.pretrain_epochs
    first, then = (f"{n} epoch{'' if n == 1 else 's'}" for n in (pretraining, training.epochs))
    every = "batch" if search.prune_every == 1 else f"{search.prune_every} batches"
    sizes = ["the task"] * 2
    if isinstance(data, ImageData):
        sizes = [str(part.batch_size) for part in (search, training)]
    how = f"batches of {sizes[1]}, learning rate {training.lr:g}"
    if isinstance(data, Task) and data.trainer is not None:
        how = "by the trainer of the task"
    return {
        "search": f"search: {first}, then a prune step every {every} of {sizes[0]}",
        "training": f"training: {then}, {how}",
    }


def _format(value: object) -> str:
    if isinstance(value, tuple | list):
        return " ".join(_format(part) for part in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def read_sizes(options: SizeOptions) -> tuple[list[float], str | None]:
    """Return ratios and budgets as the user wrote them. Raises NsoptError for invalid ones."""
    if options.ratios is not None and options.budgets is not None:
        raise NsoptError("give --ratios or --budgets, not both")
    if "=" in (options.budgets or "") and options.metric != PARAMS.name:
        raise NsoptError("--budgets names its metrics: leave --metric out")
    ratios = [_parse_ratio(word) for word in split_words(options.ratios or "")]
    budgets = options.budgets
    if any(text is not None and not text.strip(" ,;") for text in (options.ratios, budgets)):
        raise NsoptError("no budget is given: write --ratios 0.25,0.5 or --budgets 600k,2M")
    return ratios, budgets


def _parse_ratio(text: str) -> float:
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        ratio = float(text)
    except ValueError:
        raise NsoptError(f"{text!r} is not a width ratio: write 0.25 or 25%") from None
    if _WIDEST_RATIO < ratio < float("inf"):
        raise NsoptError(
            f"a width ratio of {ratio:g} is a network {ratio:g} times as wide: for {ratio / 100:g} "
            f"write {ratio / 100:g} or {ratio:g}%"
        )
    return ratio
