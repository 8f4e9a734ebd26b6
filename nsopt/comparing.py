"""The main job from Python: methods of choosing widths compared at equal budgets."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from torch import nn

from nsopt.data.images import ImageData
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.deployment.kept import KeptNetwork, load_network
from nsopt.errors import NsoptError, unknown_name
from nsopt.files import check_writable
from nsopt.methods.registry import COMPARED, get_methods
from nsopt.models.architecture import Architecture
from nsopt.models.tracing.originals import copy_model
from nsopt.progress import Progress
from nsopt.reports.page import write_report
from nsopt.reports.results import Results, read_results
from nsopt.reports.tables import summary
from nsopt.reports.words import Verdict, answer
from nsopt.scaling.metric import PARAMS, Metric, get_metric, read_budgets
from nsopt.session.presets import StudySettings, get_preset
from nsopt.session.subject import Subject, with_precision
from nsopt.session.workspace import Workspace
from nsopt.storage.studies import quiet_optuna
from nsopt.storage.urls import sqlite_url
from nsopt.study.compare import run_comparison
from nsopt.study.comparison import Comparison, Size, check_sizes, sizes_of_ratios
from nsopt.study.learned_latency import with_latency_if_needed
from nsopt.tasks.supervise import check_task
from nsopt.tasks.task import Task
from nsopt.terminal import show_progress
from nsopt.training.trainer import Trainer


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonResult:
    """Methods compared at equal budgets.

    Attributes:
        results: all trainings and measurements.
        folder: of the files beside the storage.
        arch: the network.
    """

    results: Results
    folder: Path
    arch: Architecture
    _workspace: Workspace

    @property
    def table(self) -> pd.DataFrame:
        """One row per metric, budget and method: n, means and standard deviations over seeds."""
        return summary(self.results)

    @property
    def answer(self) -> list[Verdict]:
        """A verdict for every budget, smallest first: `str(result.answer[0])` is a sentence."""
        return answer(self.results)

    def __repr__(self) -> str:
        """Return the verdicts in words."""
        return "\n".join(map(str, self.answer))

    def report(self, folder: Path | str) -> Path:
        """Write the report, with its numbers as CSV; return the path of its page."""
        return write_report(self.results, Path(folder))

    def network(self, method: str, budget: float) -> KeptNetwork:
        """Return the best network of a method at a budget, by the score of the validation.

        Args:
            method: its name.
            budget: as in the table.

        Raises:
            NsoptError: if the comparison has no such network.
        """
        studies = self._workspace.studies(self.results.name)
        if method not in self.results.methods:
            raise unknown_name("method", method, self.results.methods)
        best = {size[1]: trial for size, trial in best_trials(studies[method]).items()}
        if budget not in best:
            known = ", ".join(f"{size:g}" for size in best)
            raise NsoptError(f"{method} was not trained at a budget of {budget:g}: give {known}")
        networks = BestNetworks(self._workspace.artifacts)
        return load_network(networks.file(studies[method], best[budget]), self.arch)


def compare(
    arch: Architecture,
    task: Task | ImageData,
    methods: Sequence[str] = COMPARED,
    ratios: Sequence[float] | None = None,
    budgets: str | None = None,
    metric: str = PARAMS.name,
    seeds: int | None = None,
    preset: str = "quick",
    *,
    settings: StudySettings | None = None,
    start: nn.Module | None = None,
    trainer: Trainer | None = None,
    out: Path | str | None = None,
    storage: str | None = None,
    progress: Progress | None = None,
) -> ComparisonResult:
    """Compare methods of choosing widths at equal budgets, as `nsopt study` does.

    Args:
        arch: the network.
        task: batches, loss and score; or images with labels.
        methods: their names, uniform scaling first.
        ratios: width ratios whose uniform networks give the budgets; by default the preset's.
        budgets: in place of ratios, as on the command line: `600k,2M`, or `macs=20M`.
        metric: what the budgets count: params, macs or latency.
        seeds: number of trainings at each budget; by default that of the preset.
        preset: settings of search and training, and default numbers of seeds and ratios.
        settings: in place of those of the preset.
        start: a trained network of base widths that all methods inherit from.
        trainer: `trainer(model, task, context)` returns the trained network: used in place of
            nsopt's own trainings, but not in the search. Only for tasks that are not images.
        out: a folder for all results, from which the same call continues. By default only what is
            returned is kept, and networks are not.
        storage: URL of an Optuna storage; by default a file in `out`.
        progress: receives steps and messages; by default bars on a terminal and nothing elsewhere;
            `nsopt.Silent()` for silence.

    Returns:
        `.table`, `.answer`, `.report(folder)` and `.network(method, budget)`.

    Raises:
        NsoptError: for invalid numbers or names, a task without a loss or a score, or a folder that
            other settings wrote.

    Examples:
        >>> data = nsopt.load_data("digits")
        >>> study = nsopt.compare(arch, data, ["uniform"], ratios=[0.25, 0.5], preset="smoke")
        >>> print(study.answer[0])
        >>> study.report("report")
    """
    check_task(task)
    if trainer is not None:
        if isinstance(task, ImageData):
            raise NsoptError("trainer= needs an nsopt.Task with your own batches, loss and score")
        task = replace(task, trainer=trainer)
    if seeds is not None and not (isinstance(seeds, int) and seeds >= 1):
        raise NsoptError("seeds must be a whole number of at least 1")
    chosen, found = get_preset(preset), get_methods(list(methods))
    with tempfile.TemporaryDirectory(prefix="nsopt-") as temporary:
        folder = Path(out) if out is not None else Path(temporary)
        if out is not None:
            check_writable(folder, "out=")
        workspace = Workspace(storage or sqlite_url(folder / "study.db"), folder)
        start = None if start is None else copy_model(start).cpu().eval()
        subject = Subject.of(arch, task, settings or chosen.settings, start)
        limits = get_metric(metric)
        with show_progress(progress) as display, quiet_optuna():
            subject = with_precision(subject, workspace)
            subject = with_latency_if_needed(subject, limits, found, workspace, display)
            sizes = _read_sizes(subject, limits, ratios or chosen.ratios, budgets)
            comparison = Comparison(subject, found, sizes, seeds or chosen.seeds, chosen.references)
            run_comparison(comparison, workspace, display)
            results = read_results(workspace.url, subject.name)
        return ComparisonResult(results, folder, subject.arch, workspace)


def _read_sizes(
    subject: Subject, metric: Metric, ratios: Sequence[float], budgets: str | None
) -> tuple[Size, ...]:
    settings = subject.settings
    if budgets is None:
        sizes = sizes_of_ratios(subject.arch, metric, ratios)
    else:
        sizes = tuple(Size(*limit) for limit in read_budgets(budgets, metric))
    check_sizes(subject.arch, sizes, settings.multiple_of, settings.min_width, timed=True)
    return sizes
