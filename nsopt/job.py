"""Searches and studies: from the words of a command line to a printed law, or a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from nsopt.console import console, live_progress
from nsopt.data.registry import load_source
from nsopt.data.source import Source
from nsopt.errors import NsoptError, unknown_name
from nsopt.models.registry import architectures, get_architecture
from nsopt.pruning.record import Iteration
from nsopt.reports.dashboard import publish
from nsopt.reports.page import write_report
from nsopt.reports.results import Results, read_results
from nsopt.reports.tables import size_label, summary, with_deviation
from nsopt.scaling.cost import METRICS
from nsopt.training.checkpoint import remove_checkpoints
from nsopt.training.device import resolve_compute
from nsopt.tuning import schema
from nsopt.tuning.comparison import run_comparison
from nsopt.tuning.methods import NEURALSCALE, check_methods, descent_iterations
from nsopt.tuning.request import Comparison, parse_sizes, words
from nsopt.tuning.settings import Preset, StudySettings, get_preset, override
from nsopt.tuning.storage import shown, sqlite_path, storage_errors
from nsopt.tuning.studies import continue_search, existing_studies
from nsopt.tuning.tune_request import best_settings


@dataclass(frozen=True, kw_only=True)
class Job:
    """The options of a study, or of a search alone, as given; None where the preset decides.

    changes: of the preset's settings, as `override` takes them.
    """

    arch: str
    source: Source
    data_dir: Path
    preset: str
    changes: dict[str, dict[str, Any]]
    storage: str | None
    out: Path | None
    methods: str = NEURALSCALE
    ratios: str | None = None
    budgets: str | None = None
    metric: str = "params"
    seeds: int | None = None
    workers: int = 1
    tuned: str | None = None
    tuned_storage: str | None = None


def run_study(job: Job) -> None:
    """Run the comparison, print its table, write its report. Raises NsoptError for bad options."""
    comparison, folder = prepare(job)
    with storage_errors(comparison.storage):
        with live_progress() as progress:
            run_comparison(comparison, progress)
        _print_summary(read_results(comparison.storage, comparison.prefix))
        page = write_report(comparison.storage, folder / "report", comparison.prefix)
        publish(comparison.storage, comparison.prefix)
    console.print(f"storage: {shown(comparison.storage)}", soft_wrap=True, highlight=False)
    console.print(f"report:  {page}", soft_wrap=True, highlight=False)


def run_search(job: Job) -> None:
    """Run architecture descent, print the last law. Raises NsoptError for bad options."""
    comparison, _ = prepare(job)
    with storage_errors(comparison.storage):
        existing = existing_studies(comparison).get(schema.SEARCH)
        with live_progress() as progress:
            history = continue_search(comparison, existing, progress)
    remove_checkpoints(comparison.checkpoints)
    _print_law(comparison.arch.layer_names, history[-1])
    console.print(f"storage: {shown(comparison.storage)}", soft_wrap=True, highlight=False)


def _print_summary(results: Results) -> None:
    """The result table, and the trainings that failed."""
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
        title=f"{results.name}: mean ± standard deviation over n seeds",
    )
    for name in ("size", "method"):
        table.add_column(name, no_wrap=True)
    for name in ("n", "params", "MACs", "ms", "val %", "test %"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary(results).to_dict("records"):
        table.add_row(
            size_label(row["budget"], row["metric"], row["ratio"]),
            row["method"],
            str(row["n"]),
            _short(row["params"]),
            _short(row["macs"]),
            f"{row['latency_ms']:.1f}",
            with_deviation(row["val_mean"], row["val_std"]),
            with_deviation(row["test_mean"], row["test_std"]),
        )
    console.print(table)
    for failure in results.failures.to_dict("records"):
        console.print(f"failed: {failure['label']}: {failure['reason']}", markup=False)


def _print_law(layer_names: Sequence[str], iteration: Iteration) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, title="width = alpha * parameters ** beta")
    for name in ("layer", "alpha", "beta", "r2", "pruned from", "proposed"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    law = iteration.law
    columns = (law.alpha, law.beta, law.r2, iteration.start_widths, iteration.widths)
    for name, alpha, beta, r2, start, width in zip(layer_names, *columns, strict=True):
        table.add_row(name, f"{alpha:.4g}", f"{beta:.3f}", f"{r2:.3f}", str(start), str(width))
    console.print(table)


def prepare(job: Job) -> tuple[Comparison, Path]:
    """Check the options, load the data, say what will run; the comparison and its folder."""
    preset = get_preset(job.preset, job.source.name)
    settings = override(_tuned(job, preset), job.changes)
    _check_before_loading(job, settings)
    comparison, folder = _comparison(job, preset, settings)
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    console.print(f"[bold]{escape(comparison.prefix)}[/bold]: {preset.question}", highlight=False)
    _print_settings(settings)
    return comparison, folder


def _tuned(job: Job, preset: Preset) -> StudySettings:
    """The preset's settings, with the best of the tuning study that was named."""
    if job.tuned is None:
        return preset.settings
    url = job.tuned_storage or job.storage
    if url is None:
        raise NsoptError("--tuned needs the --tuned-storage, or --storage, that holds that study")
    with storage_errors(url):
        return override(preset.settings, best_settings(url, job.tuned))


def _check_before_loading(job: Job, settings: StudySettings) -> None:
    """Everything that can be wrong without the data, which may take a while to read."""
    if job.arch not in architectures():
        raise unknown_name("architecture", job.arch, architectures())
    if job.metric not in METRICS:
        raise unknown_name("metric", job.metric, METRICS)
    descent_iterations(check_methods(words(job.methods)), settings)
    resolve_compute(settings.training.device, settings.training.precision)
    if job.storage is not None:
        sqlite_path(job.storage)


def _comparison(job: Job, preset: Preset, settings: StudySettings) -> tuple[Comparison, Path]:
    """The comparison that the options describe, and the folder of its results."""
    data = load_source(job.source, job.data_dir)
    arch = get_architecture(job.arch, len(data.classes), data.image_size, data.channels)
    folder = job.out or Path("runs") / f"{arch.name}-{data.name}-{settings.preset}"
    comparison = Comparison(
        arch=arch,
        data=data,
        source=job.source,
        data_dir=job.data_dir,
        methods=check_methods(words(job.methods)),
        sizes=parse_sizes(arch, job.metric, job.ratios, job.budgets, preset.ratios),
        seeds=job.seeds or preset.seeds,
        metric=job.metric,
        settings=settings,
        storage=job.storage or f"sqlite:///{folder / 'study.db'}",
        checkpoints=folder / "checkpoints",
        workers=job.workers,
    )
    return comparison, folder


def _print_settings(settings: StudySettings) -> None:
    for part in ("search", "training"):
        values = getattr(settings, part).model_dump(exclude_none=True)
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        console.print(f"[dim]{part}: {shown}[/dim]", highlight=False)


def _short(number: float) -> str:
    """Three digits or more and a unit, such as `580k` or `15.5M`."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return (
                f"{number / size:.3g}{unit}"
                if number < 100 * size
                else f"{number / size:.0f}{unit}"
            )
    return f"{number:.0f}"
