"""`nsopt study`, the main job: search, train, measure, store and report."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from nsopt.cli.console import (
    console,
    describe_storage,
    live_progress,
    make_fitting_table,
    publish_if_installed,
)
from nsopt.cli.options import (
    BudgetOptions,
    SearchOptions,
    WorkersOptions,
    changes,
    refuse_unused,
    split_words,
)
from nsopt.cli.values import GivenPath
from nsopt.errors import NsoptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nsopt.reports.results import Results
    from nsopt.session.presets import StudySettings
    from nsopt.session.workspace import Workspace

_LEFT_OUT_FIRST = (
    "MACs",
    "predicted",
    "n",
    "note",
    "params",
    "val %",
)  # columns, on a narrow terminal


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class StudyOptions(BudgetOptions, WorkersOptions):
    search: SearchOptions = SearchOptions()
    methods: str = "uniform,morphnet,magnitude,neuralscale"
    """Methods to compare. Also: neuralscale-params, neuralscale-macs, dense, and
    neuralscale-iter1, ... for the law of an iteration of descent."""
    eta: float | None = None
    """Find NeuralScale's widths with the paper's Algorithm 3 and this step size, instead of the
    exact solver."""
    tuned: str | None = None
    """Optuna study of `nsopt tune` in --storage, from which to take the best P or eta."""
    start: GivenPath = None
    """File with the weights of a trained network. The networks of all methods start from its most
    important filters and are fine-tuned."""
    dry_run: bool = False
    """Only print how long the study takes here, and the widths that need no search. Writes nothing,
    and trains only a few steps."""


def study(options: StudyOptions = StudyOptions()) -> None:
    """Compare methods of choosing widths at equal budgets. Repeat the command to continue.

    Example: nsopt study --arch resnet18 --data cifar100 --ratios 25%,50%
    """
    options.task.check_names(options.sgd, options.search)
    from nsopt.methods.registry import get_methods

    methods = split_words(options.methods)
    get_methods(methods)  # a misspelt name ends here, before torch
    from nsopt.cli import preparation
    from nsopt.study.compare import compare
    from nsopt.study.plan import make_comparison, preview_comparison, read_requests

    preset = options.task.read_preset()
    ratios, budgets = preparation.read_sizes(options.sizes)
    settings = _make_settings(options, preset.settings, ratios)
    read_requests(settings.metric, settings.ratios, budgets)  # an invalid one ends here
    given = options.task, options.output, settings, options.training
    arch, data, settings, workspace = preparation.prepare(
        *given, workers=options.workers, start=options.start
    )
    starts, verbose = settings.start is not None, options.output.verbose
    preparation.announce(arch, data, settings, preset.question, verbose, starts_trained=starts)
    with live_progress() as progress:
        if options.dry_run:
            compared = arch, data, get_methods(methods), settings, budgets, workspace, progress
            known = preview_comparison(make_comparison(*compared, timed=False), workspace, progress)
        else:
            configured = partial(compare, arch, data, methods, budgets=budgets, settings=settings)
            result = configured(out=workspace, progress=progress)
    if options.dry_run:
        for label, widths in known.items():
            console.print(f"{label}: {'-'.join(map(str, widths))}", soft_wrap=True)
    else:
        _report(result.results, workspace, options.task.task)


def _make_settings(
    options: StudyOptions, preset: "StudySettings", ratios: "Sequence[float]"
) -> "StudySettings":
    """Return the settings of a study. Raises NsoptError if they do not suit its options."""
    from nsopt.session.presets import override
    from nsopt.session.workspace import Workspace
    from nsopt.study.tuning import best_settings

    own = {"eta": options.eta, "seeds": options.seeds, "ratios": ratios or None}
    own |= {"metric": options.sizes.metric} | options.sizes.rounding | options.timing.changes
    changed = changes(options.search, options.training, options.sgd, own)
    if options.start is not None:
        refuse_unused("with --start", ["pretrain_epochs"], options.search)
    tuned = dict[str, dict[str, object]]()
    if options.tuned is not None:
        if options.output.storage is None:
            raise NsoptError("--tuned needs the storage of that study: give --storage")
        tuned = best_settings(Workspace(options.output.storage, Path()), options.tuned)
    if options.start is not None and "search" in tuned:
        raise NsoptError("--start leaves out the pre-training that --tuned sets: leave one out")
    return override(override(preset, tuned), changed)


def _report(results: "Results", workspace: "Workspace", task: str | None) -> None:
    from nsopt.cli.export import export_command, name_answer
    from nsopt.reports.page import write_report

    _print_summary(results)
    page = write_report(results, workspace.folder / "report")
    publish_if_installed(results, workspace.url)
    console.print(describe_storage(workspace.url), soft_wrap=True)
    command = export_command(workspace, name_answer(results), results.task.arch, task)
    console.print(f"export:  {command}", soft_wrap=True)
    console.print(f"report:  {page}", soft_wrap=True)


def _print_summary(results: "Results") -> None:
    from nsopt.reports.tables import short_rows
    from nsopt.reports.words import answer, warn_of_latencies

    rows = short_rows(results)
    title = f"{results.name}: mean ± std over n seeds, {results.latency_unit}"
    console.print(make_fitting_table(rows, title, ("size", "method"), _LEFT_OUT_FIRST))
    for verdict in answer(results):
        console.print(str(verdict))
    for failure in results.failures.to_dict("records"):
        console.print(f"failed: {failure['label']}: {failure['reason']}")
    if warning := warn_of_latencies(results):
        console.print(warning)
