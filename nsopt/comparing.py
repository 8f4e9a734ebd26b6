"""The main job from Python: methods of choosing widths compared at equal budgets."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from nsopt.data.images import ImageData
from nsopt.data.source import Source
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.deployment.export import export
from nsopt.deployment.kept import KeptNetwork, load_network
from nsopt.errors import NsoptError, unknown_name
from nsopt.files import STUDY_FILE, check_writable
from nsopt.isolation import public
from nsopt.latency.runtime import TORCH, Measure, choose_runtime
from nsopt.methods.registry import COMPARED, get_methods
from nsopt.models.architecture import Architecture
from nsopt.notebook import make_html_table
from nsopt.progress import Progress
from nsopt.reports.page import write_report
from nsopt.reports.results import Results, read_results
from nsopt.reports.tables import short_rows, summary, without_tests
from nsopt.reports.words import Verdict, answer
from nsopt.scaling.budget import read_budgets
from nsopt.scaling.metric import PARAMS, get_metric
from nsopt.session.presets import StudySettings, get_preset
from nsopt.session.subject import Subject, make_architecture, with_precision
from nsopt.session.workspace import Workspace
from nsopt.settings import BATCH_SIZE
from nsopt.storage.studies import quiet_optuna
from nsopt.storage.urls import sqlite_url
from nsopt.study.compare import run_comparison
from nsopt.study.comparison import Asked, AskedRatio, Comparison, settle_sizes
from nsopt.tasks.imported import load_task
from nsopt.tasks.task import Task
from nsopt.terminal import show_progress
from nsopt.tracing.originals import copy_model, unwrapped
from nsopt.training.trainer import Trainer

_MOST_SEEDS = 1_000


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
    _data: Task | ImageData

    @property
    def table(self) -> pd.DataFrame:
        """One row per metric, budget and method: n, means and standard deviations over seeds."""
        return without_tests(summary(self.results), self.results)

    @property
    def answer(self) -> list[Verdict]:
        """A verdict for every budget, smallest first: `str(result.answer[0])` is a sentence."""
        return answer(self.results)

    def __repr__(self) -> str:
        """Return the verdicts in words."""
        return "\n".join(map(str, self.answer))

    def _repr_html_(self) -> str:
        """Return the table, with the verdicts above it, for a notebook."""
        return make_html_table(short_rows(self.results), repr(self))

    @public
    def report(self, folder: Path | str) -> Path:
        """Write the report, with its numbers as CSV; return the path of its page."""
        return write_report(self.results, Path(folder))

    @public
    def network(self, method: str, budget: float, metric: str | None = None) -> KeptNetwork:
        """Return the best network of a method at a budget, by the score of the validation.

        Args:
            method: its name.
            budget: as in the table.
            metric: as in the table; needed where several budgets hold at once, whose number is 1.

        Raises:
            NsoptError: if the comparison has no such network, or kept none.
        """
        if not self.folder.is_dir():
            raise NsoptError("the networks of a comparison are kept only with out=: give a folder")
        studies = self._workspace.studies(self.results.name)
        if method not in self.results.methods:
            raise unknown_name("method", method, self.results.methods)
        best = best_trials(studies[method])
        sizes = [size for size in best if size[1] == budget and metric in (None, size[0])]
        if not sizes:
            known = ", ".join(f"{size[1]:g}" for size in best)
            raise NsoptError(f"{method} was not trained at a budget of {budget:g}: give {known}")
        if len(sizes) > 1:
            named = ", ".join(repr(size[0]) for size in sizes)
            raise NsoptError(f"several networks have a budget of {budget:g}: give metric= {named}")
        networks = BestNetworks(self._workspace.artifacts)
        return load_network(networks.file(studies[method], best[sizes[0]]), self.arch)

    @public
    def export(
        self,
        path: Path | str,
        format: str | None = None,  # noqa: A002
        method: str | None = None,
        budget: float | None = None,
    ) -> None:
        """Write a network for other tools: see `nsopt.export`.

        Args:
            path: of the file.
            format: `onnx`, `pt2` or `state_dict`; by default by the suffix of the file.
            method: by default that which the answer names at the largest budget.
            budget: see `network`; by default the largest.
        """
        row = self.answer[-1].row
        method = row["method"] if method is None else method
        metric = row["metric"] if budget is None else None
        network = self.network(method, row["budget"] if budget is None else budget, metric)
        export(network, path, format, self._data)


@public
def compare(
    arch: Architecture | str,
    task: Task | ImageData | str,
    methods: Sequence[str] = COMPARED,
    ratios: Sequence[float] | None = None,
    budgets: Sequence[float | str] | str | None = None,
    metric: str = PARAMS.name,
    seeds: int | None = None,
    preset: str = "quick",
    *,
    settings: StudySettings | None = None,
    start: nn.Module | None = None,
    trainer: Trainer | None = None,
    measure: Measure | None = None,
    runtime: str = TORCH.name,
    latency_batch_size: int = BATCH_SIZE,
    workers: int = 1,
    out: Path | str | None = None,
    storage: str | None = None,
    progress: Progress | None = None,
) -> ComparisonResult:
    """Compare methods of choosing widths at equal budgets, as `nsopt study` does.

    Args:
        arch: the network, or a name as the command line takes it: `vgg11`, or
            `package.module:factory`. Its milliseconds are measured anew, as `measure` and `runtime`
            say.
        task: batches, loss and score; or images with labels; or a name: `package.module:function`
            of a function that returns a task, or a data set as for `nsopt.load_data`.
        methods: their names, uniform scaling first.
        ratios: width ratios whose uniform networks give the budgets; by default the preset's.
        budgets: in place of ratios: `["600k", 2e6]`, shares of what the network of base widths
            costs, `["50%"]`, or text as on the command line: `600k,2M` or `macs=20M`.
        metric: what the budgets count: params, macs or latency.
        seeds: number of trainings at each budget; by default that of the preset.
        preset: settings of search and training, and default numbers of seeds and ratios.
        settings: in place of those of the preset.
        start: a trained network of base widths that all methods inherit from.
        trainer: `trainer(model, task, context)` returns the trained network: used in place of
            nsopt's own trainings, but not in the search.
        measure: a function that takes a network and a batch of images and returns milliseconds;
            see `nsopt.with_latency`.
        runtime: runs the networks that nsopt times: torch or onnxruntime.
        latency_batch_size: images per batch of all milliseconds.
        workers: processes on this machine that share the trainings. Above one, they need the names
            of the network and the task, not the objects.
        out: a folder for all results, from which the same call continues. By default only what is
            returned is kept, and networks are not.
        storage: URL of an Optuna storage; by default a file in `out`.
        progress: receives steps and messages; by default bars on a terminal, else lines on stderr;
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
    network, data = _load(arch, task, workers)
    if workers > 1 and trainer is not None:
        raise NsoptError("several workers load the trainer with the task: give it to nsopt.Task")
    if workers > 1 and measure is not None:
        raise NsoptError("several workers import what measures by its name: run nsopt study")
    if seeds is not None and not 1 <= seeds <= _MOST_SEEDS:
        raise NsoptError(f"seeds must be from 1 to {_MOST_SEEDS:,}")
    if ratios is not None and budgets is not None:
        raise NsoptError("give ratios or budgets, not both")
    chosen = get_preset(preset, (data.source or Source(data.name)).name)
    kinds, limits = get_methods(list(methods)), get_metric(metric)
    asked: Asked = [AskedRatio(limits, r) for r in (chosen.ratios if ratios is None else ratios)]
    asked = asked if budgets is None else read_budgets(budgets, limits)
    wanted = chosen.settings if settings is None else settings
    timed_in = choose_runtime(runtime, measure, latency_batch_size)
    if not wanted.training.epochs:
        raise NsoptError("epochs must be at least 1: only nsopt.compress works without training")
    with tempfile.TemporaryDirectory(prefix="nsopt-") as temporary:
        folder = Path(temporary if out is None else out).absolute()
        if out is not None:
            check_writable(out, "out=")
        url, deleted = storage or sqlite_url(folder / STUDY_FILE), out is None and not storage
        workspace = Workspace(url, folder, workers=workers, temporary=deleted)
        start = None if start is None else copy_model(unwrapped(start)).cpu().eval()
        subject = Subject.of(network, data, wanted, start, timed_in, trainer)
        with show_progress(progress) as display, quiet_optuna():
            subject = with_precision(subject, workspace)
            subject, sizes = settle_sizes(subject, asked, workspace, display)
            comparison = Comparison(subject, kinds, sizes, seeds or chosen.seeds)
            run_comparison(comparison, workspace, display)
            results = read_results(workspace.url, subject.name, workspace.storage)
        return ComparisonResult(results, folder, subject.arch, workspace, subject.data)


def _load(
    arch: Architecture | str, task: Task | ImageData | str, workers: int
) -> tuple[Architecture, Task | ImageData]:
    """Return the network and the task, loaded where they are names.

    Raises:
        NsoptError: if several workers would need a name.
    """
    if workers < 1:
        raise NsoptError("workers must be a whole number of at least 1")
    if workers > 1 and not (isinstance(arch, str) and isinstance(task, str)):
        raise NsoptError(
            "several workers load the network and the task by their names: give "
            "arch='package.module:factory' and task='package.module:function'"
        )
    data = load_task(task)
    network = make_architecture(arch, data) if isinstance(arch, str) else arch.with_latency(None)
    return network, data
