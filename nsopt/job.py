"""One call of the main job: from the words of a command line to a finished report."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from rich.box import SIMPLE_HEAD
from rich.table import Table

from nsopt.console import console, live_progress
from nsopt.data.registry import load_data
from nsopt.errors import NsoptError, unknown_name
from nsopt.models.registry import architectures, get_architecture
from nsopt.reports.page import write_report
from nsopt.reports.results import Results, read_results
from nsopt.reports.tables import size_label, summary
from nsopt.scaling.cost import METRICS
from nsopt.training.device import resolve_compute
from nsopt.tuning.comparison import run_comparison
from nsopt.tuning.methods import check_methods
from nsopt.tuning.request import Comparison, sizes_of_budgets, sizes_of_ratios
from nsopt.tuning.settings import Preset, StudySettings, get_preset, override
from nsopt.tuning.storage import sqlite_path, storage_errors

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class Job:
    """The options of the main job as given; None where the preset decides.

    changes: of the preset's settings, as `override` takes them.
    """

    arch: str
    data: str
    data_dir: Path
    image_size: int | None
    methods: str
    ratios: str | None
    budgets: str | None
    metric: str
    seeds: int | None
    preset: str
    changes: dict[str, dict[str, Any]]
    storage: str | None
    out: Path | None


def run_job(job: Job) -> None:
    """Run the comparison, print its table, write its report. Raises NsoptError for bad options."""
    preset = get_preset(job.preset)
    settings = override(preset.settings, job.changes)
    _check_before_loading(job, settings)
    comparison, folder = _comparison(job, preset, settings)
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    console.print(f"[bold]{comparison.prefix}[/bold]: {preset.question}", highlight=False)
    _print_settings(settings)
    with storage_errors(comparison.storage):
        with live_progress() as progress:
            run_comparison(comparison, progress)
        print_summary(read_results(comparison.storage, comparison.prefix))
        page = write_report(comparison.storage, folder / "report", comparison.prefix)
    console.print(f"storage: {comparison.storage}", soft_wrap=True, highlight=False)
    console.print(f"report:  {page}", soft_wrap=True, highlight=False)


def parse_budget(text: str) -> int:
    """`600k`, `2M`, `1.5M` or a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)", text.strip().lower())
    if not match:
        raise NsoptError(f"{text.strip()!r} is not a budget: write 600000, 600k or 2M")
    return round(float(match[1]) * _UNITS[match[2]])


def parse_ratio(text: str) -> float:
    """A width ratio such as `0.25`."""
    try:
        return float(text)
    except ValueError:
        raise NsoptError(f"{text.strip()!r} is not a width ratio: write 0.25 or 2") from None


def print_summary(results: Results) -> None:
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
            f"{row['val_mean']:.2f} ± {row['val_std']:.2f}",
            f"{row['test_mean']:.2f} ± {row['test_std']:.2f}",
        )
    console.print(table)
    for failure in results.failures.to_dict("records"):
        console.print(f"failed: {failure['label']}: {failure['reason']}", markup=False)


def _check_before_loading(job: Job, settings: StudySettings) -> None:
    """Everything that can be wrong without the data, which may take a while to read."""
    if job.arch not in architectures():
        raise unknown_name("architecture", job.arch, architectures())
    if job.metric not in METRICS:
        raise unknown_name("metric", job.metric, METRICS)
    if job.ratios is not None and job.budgets is not None:
        raise NsoptError("give --ratios or --budgets, not both")
    check_methods(_words(job.methods))
    resolve_compute(settings.training.device, settings.training.precision)
    if job.storage is not None:
        sqlite_path(job.storage)


def _comparison(job: Job, preset: Preset, settings: StudySettings) -> tuple[Comparison, Path]:
    """The comparison that the options describe, and the folder of its results."""
    data = load_data(job.data, job.data_dir, job.image_size)
    arch = get_architecture(job.arch, len(data.classes), data.image_size, data.channels)
    if job.budgets is not None:
        budgets = [parse_budget(word) for word in _words(job.budgets)]
        sizes = sizes_of_budgets(arch, job.metric, budgets)
    else:
        given = [parse_ratio(word) for word in _words(job.ratios or "")]
        sizes = sizes_of_ratios(arch, job.metric, given or preset.ratios)
    folder = job.out or Path("runs") / f"{arch.name}-{data.name}-{settings.preset}"
    comparison = Comparison(
        arch=arch,
        data=data,
        methods=check_methods(_words(job.methods)),
        sizes=sizes,
        seeds=job.seeds or preset.seeds,
        metric=job.metric,
        settings=settings,
        storage=job.storage or f"sqlite:///{folder / 'study.db'}",
        checkpoints=folder / "checkpoints",
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


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
