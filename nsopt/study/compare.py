"""The main job from Python: methods of choosing widths compared at equal budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from nsopt.data.images import ImageData
from nsopt.data.source import Source
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.deployment.kept import KeptNetwork, load_network
from nsopt.errors import NsoptError, unknown_name
from nsopt.isolation import public
from nsopt.methods.registry import COMPARED, get_methods
from nsopt.models.architecture import Architecture
from nsopt.notebook import make_html_table
from nsopt.progress import Progress, show_progress
from nsopt.reports.page import write_report
from nsopt.reports.results import Results, read_results
from nsopt.reports.tables import short_rows, summary, without_tests
from nsopt.reports.words import Verdict, answer
from nsopt.session.presets import StudySettings, get_preset
from nsopt.session.subject import make_architecture
from nsopt.session.workspace import Workspace, open_workspace
from nsopt.study.plan import make_comparison, run_comparison
from nsopt.tasks.supervise import load_task
from nsopt.tasks.task import Task
from nsopt.tracing.originals import copy_model, unwrapped


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonResult:
    """Methods compared at equal budgets.

    Attributes:
        results: all trainings and measurements.
        arch: the network.
    """

    results: Results
    arch: Architecture
    _workspace: Workspace

    @property
    def folder(self) -> Path:
        """The folder of files and storage; without out= it is deleted with this result."""
        return self._workspace.folder

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

        `nsopt.export` writes it for other tools.

        Args:
            method: its name.
            budget: as in the table.
            metric: as in the table; needed where several budgets hold at once, whose number is 1.

        Raises:
            NsoptError: if the comparison has no such network.
        """
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
def compare(
    arch: Architecture | str,
    task: Task | ImageData | str,
    methods: Sequence[str] = COMPARED,
    ratios: Sequence[float] | None = None,
    budgets: Sequence[float | str] | str | None = None,
    seeds: int | None = None,
    preset: str = "quick",
    *,
    settings: StudySettings | None = None,
    out: Path | str | Workspace | None = None,
    progress: Progress | None = None,
) -> ComparisonResult:
    """Compare methods of choosing widths at equal budgets, as `nsopt study` does.

    Args:
        arch: the network, or a name as the command line takes it: `vgg11`, or
            `package.module:factory`. Its milliseconds are measured anew, as the settings say.
        task: batches, loss and score; or images with labels; or a name: `package.module:function`
            of a function that returns a task, or a data set as for `nsopt.load_data`. A trainer of
            yours belongs to it.
        methods: their names, uniform scaling first.
        ratios: width ratios whose uniform networks give the budgets; by default the settings'.
        budgets: in place of ratios: `["600k", "macs=20M"]`, shares of what the network of base
            widths costs, `["50%"]`, or text as on the command line: `600k,2M` or `macs=20M`.
        seeds: number of trainings at each budget; by default the settings'.
        preset: the name of settings of search and training, with numbers of seeds and ratios.
        settings: in place of a preset; also a trained network to start from, and what measures
            milliseconds (`nsopt.StudySettings`).
        out: a folder for all results, from which the same call continues; or the URL of an Optuna
            storage, which processes on several machines may share. By default only the result is
            kept. The command line gives its workspace.
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
    if ratios is not None and budgets is not None:
        raise NsoptError("give ratios or budgets, not both")
    kinds, data = get_methods(methods), load_task(task)
    network = make_architecture(arch, data) if isinstance(arch, str) else arch.with_latency(None)
    wanted = settings or get_preset(preset, (data.source or Source(data.name)).name).settings
    points = {"ratios": None if ratios is None else tuple(ratios), "seeds": seeds}
    wanted = wanted.updated(**{name: value for name, value in points.items() if value is not None})
    if isinstance(wanted.start, nn.Module):
        wanted = wanted.updated(start=copy_model(unwrapped(wanted.start)).cpu().eval())
    with open_workspace(out) as workspace, show_progress(progress) as display:
        comparison = make_comparison(network, data, kinds, wanted, budgets, workspace, display)
        run_comparison(comparison, workspace, display)
        subject = comparison.subject
        results = read_results(workspace.url, subject.name, workspace.storage)
    return ComparisonResult(results, subject.arch, workspace)
