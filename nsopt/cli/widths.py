"""`nsopt widths`: compute the widths of a law at budgets."""

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nsopt.cli.console import console, live_progress, make_table, tell_what_is_fixed
from nsopt.cli.options import DeviceOptions, SizeOptions, TimingOptions, refuse_unused
from nsopt.cli.values import Count, CountFrom2, GivenPath, StoredNetworkOptions, StoredOptions
from nsopt.errors import NsoptError
from nsopt.progress import Silent
from nsopt.session.processes import STORAGE_VARIABLE

if TYPE_CHECKING:
    from optuna.study import Study

    from nsopt.latency.runtime import Runtime
    from nsopt.latency.timer import Timer
    from nsopt.models.architecture import Architecture
    from nsopt.scaling.solve import WidthFit
    from nsopt.study.laws import NetworkLaw
    from nsopt.study.plan import Requests, Size
    from nsopt.tasks.task import Task

_RATIOS = (0.25, 1.0)
_NARROW = 80  # columns of a terminal that is too narrow for all of the table


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WidthsOptions(DeviceOptions, StoredNetworkOptions, StoredOptions):
    """The options of `nsopt widths`; the law is in a file or in a storage."""

    law: GivenPath = None
    """JSON file with a law, or with one law for each iteration."""
    iteration: Count | None = None
    """Iteration of architecture descent that found the law; by default the last."""
    method: str | None = None
    """Method whose stored law to use; by default neuralscale, the law of the search."""
    classes: CountFrom2 = 10
    """With --law: classes of the network."""
    image_size: Count = 32
    """With --law: side of its images, in pixels."""
    channels: Count = 3
    """With --law: channels of its images."""
    sizes: SizeOptions = SizeOptions()
    timing: TimingOptions = TimingOptions()
    as_json: Annotated[bool, Parameter(name="--json")] = False
    """Print JSON, not a table."""


def widths(options: WidthsOptions = WidthsOptions()) -> None:
    """Print the widths of a law at your budgets. The law is in a storage or in a file.

    Example: nsopt widths --storage sqlite:///study.db --budgets 600k,2M
    """
    from nsopt.cli.preparation import read_sizes, with_known_multiple
    from nsopt.compute.device import resolve_compute
    from nsopt.latency.record import Store
    from nsopt.latency.runtime import TORCH
    from nsopt.latency.timer import Timer
    from nsopt.session.subject import with_stored_latency, write_latency_once
    from nsopt.settings import Timed, batch_unit
    from nsopt.storage.studies import StoredTimings
    from nsopt.study.plan import read_requests
    from nsopt.tasks.supervise import import_given_task

    ratios, budgets = read_sizes(options.sizes)
    requested = read_requests(options.sizes.metric, ratios or _RATIOS, budgets)
    task = import_given_task(options.task)
    network_law, inputs = _find_law(options, task), task and task.inputs
    is_timed = any(size.is_timed for size in requested)
    times = is_timed or options.sizes.multiple_of == "auto"
    is_chosen = times or options.timing.runtime or options.timing.measure
    runtime = _choose_runtime(options, network_law.studies) if is_chosen else TORCH
    with nullcontext(Silent()) if options.as_json else live_progress() as progress:
        sizes = with_known_multiple(options.sizes, options.device, runtime, progress)
        timed = Timed(runtime.name, runtime.batch_size)
        arch = with_stored_latency(network_law.arch, network_law.studies, timed)
        timer, studies = None, network_law.studies
        if is_timed:
            compute = resolve_compute(options.device, "fp32")
            store = StoredTimings(studies[0], lambda: studies) if studies else Store()
            timer = Timer(compute, runtime, progress, inputs, store)
        if timer is not None and arch.latency is None:
            arch = timer.learn(arch)
            for study in studies[:1]:
                write_latency_once(study, arch.latency, timed)
        network_law = replace(network_law, arch=arch)
        rows = _propose_widths(network_law, requested, sizes.rounding, timer)
    if options.as_json:
        print(json.dumps(rows, indent=1))
    else:
        tell_what_is_fixed(network_law.arch.summary())
        _print_table(rows)
        if is_timed:
            console.print(f"milliseconds: {batch_unit(runtime.batch_size)}", style="dim")


def _choose_runtime(options: WidthsOptions, studies: "Sequence[Study]") -> "Runtime":
    """Return what times networks: that of the stored study, or the user's choice."""
    from nsopt.latency.runtime import TORCH, choose_runtime, stored_runtime
    from nsopt.storage.schema import read_settings

    timing = options.timing
    stored = next((s for s in map(read_settings, studies) if "runtime" in s), None)
    # A search alone stores none.
    usual = TORCH.batch_size if stored is None else stored["latency_batch_size"]
    batch_size = timing.latency_batch_size or usual
    if stored is None or timing.runtime:
        return choose_runtime(timing.chosen or TORCH.name, batch_size)
    return stored_runtime(stored["runtime"], timing.measure, batch_size)


def _propose_widths(
    network_law: "NetworkLaw",
    requested: "Requests",
    rounding: dict[str, Any],
    timer: "Timer | None",
) -> list[dict[str, Any]]:
    """Return one row per budget.

    It has the costs, the widths, and the factor by which the budget is outside the record of the
    search. `timer` is needed for milliseconds, which hold as measured. Raises NsoptError for a law
    of another network.
    """
    from nsopt.latency.budget import MeasuredBudget
    from nsopt.scaling.law import PowerLaw
    from nsopt.scaling.metric import counted_costs
    from nsopt.scaling.record import Iteration
    from nsopt.scaling.solve import solve_widths
    from nsopt.study.plan import make_sizes

    law, arch = network_law.law, network_law.arch
    if law.layers != len(arch.base_widths):
        raise NsoptError(
            f"the law has {law.layers} layers and {arch.name} has {len(arch.base_widths)} "
            "searched widths: give the network that was searched as --arch"
        )
    rows = []
    for size in make_sizes(arch, requested, **rounding):
        limits, corrected = network_law.limits(size.metric, **rounding), arch
        if timer is not None and size.metric.is_timed:
            question = MeasuredBudget(arch, law, size.metric, size.budget, limits)
            corrected = question.keeping(timer.find(question))
        fit = solve_widths(law, size.metric.cost(corrected), size.budget, *limits, warn=False)
        widths = fit.widths.tolist()
        row = {"ratio": size.ratio, "metric": size.metric.name} | _describe(size, arch, fit, timer)
        row |= counted_costs(arch, widths) | {"layers": list(arch.layer_names)}
        recorded = network_law.iteration or law
        beyond = None
        if isinstance(recorded, Iteration | PowerLaw):
            beyond = recorded.beyond(size.metric.cost(arch), size.budget)
        rows.append(row | {"widths": widths, "beyond_record": beyond})
    return rows


def _describe(
    size: "Size", arch: "Architecture", fit: "WidthFit", timer: "Timer | None"
) -> dict[str, Any]:
    """Return budget and cost, of several budgets at once by metric, and which of these binds.

    Milliseconds are measured.
    """
    from nsopt.scaling.metric import Joint

    costs = {
        metric.name: timer.time(arch, tuple(fit.widths.tolist())).median_ms
        if timer is not None and metric.is_timed
        else metric.cost(arch)(fit.widths)
        for metric in size.metric.parts
    }
    if not isinstance(size.metric, Joint):
        return {"budget": size.budget, "cost": costs[size.metric.name], "binding": None}
    budgets = {metric.name: limit for metric, limit in size.metric.limits}
    return {"budget": budgets, "cost": costs, "binding": size.metric.binding(fit.binding)}


def _find_law(options: WidthsOptions, task: "Task | None" = None) -> "NetworkLaw":
    from nsopt.methods.registry import LAW_OF_SEARCH, get_method
    from nsopt.models.registry import get_architecture
    from nsopt.scaling.law import read_law
    from nsopt.session.workspace import Workspace
    from nsopt.storage.opening import newest_storage
    from nsopt.storage.studies import only_comparison
    from nsopt.storage.urls import hide_password
    from nsopt.study.laws import NetworkLaw, read_stored_law

    url = options.storage
    if options.law is not None and url == os.environ.get(STORAGE_VARIABLE):
        url = None  # set for other commands; --law wins
    if options.law is not None and url is not None:
        raise NsoptError("give --law FILE or --storage URL, not both")
    if options.law is not None:
        refuse_unused("with --law", ["name", "method", "task"], options)
        arch = get_architecture(
            options.arch or "vgg11", options.classes, options.image_size, options.channels
        )
        return NetworkLaw(read_law(options.law, options.iteration), arch)
    refuse_unused("without --law", ["classes", "image_size", "channels"], options)
    url = url or newest_storage()
    workspace = Workspace(url, Path())
    if not workspace.has_storage:
        raise NsoptError(f"nothing is stored at {hide_password(url)}: run nsopt search first")
    method = get_method(options.method) if options.method else LAW_OF_SEARCH
    name = options.name or only_comparison(workspace.storage)
    return read_stored_law(
        workspace, name, method, iteration=options.iteration, arch_name=options.arch, task=task
    )


def _print_table(rows: list[dict[str, Any]]) -> None:
    counts = [] if console.width < _NARROW else ["params", "macs"]
    beyond = any(row["beyond_record"] for row in rows)
    joint = any(row["binding"] for row in rows)
    with_unit = len({row["metric"] for row in rows}) > 1
    cells = []
    for row in rows:
        record = f"x {row['beyond_record']:.1f}" if row["beyond_record"] else ""
        cells.append(
            {
                "ratio": "" if row["ratio"] is None else f"{row['ratio']:g}",
                "budget": _format_budget(row, with_unit),
                **{name: f"{row[name]:,}" for name in counts},
                **({"binds": row["binding"] or ""} if joint else {}),
                **({"record": record} if beyond else {}),
                # spaces let lines break, hyphens not
                "widths": " ".join(map(str, row["widths"])),
            }
        )
    console.print(make_table(cells, left=("widths",)))
    if joint:
        console.print("binds: the budget that stops the network from growing", style="dim")
    if beyond:
        console.print(
            "record: the budget lies outside the search's record, by this factor: the law "
            "extrapolates",
            style="dim",
        )


def _format_budget(row: dict[str, Any], with_unit: bool) -> str:
    """Format a budget; several at once stand below each other."""
    from nsopt.scaling.metric import METRICS, get_metric

    budget = row["budget"]
    if isinstance(budget, dict):
        return "\n".join(METRICS[name].show(limit) for name, limit in budget.items())
    metric = get_metric(row["metric"])
    if with_unit:
        return metric.show(budget)
    return f"{budget:,.6g}" if isinstance(budget, float) else f"{budget:,}"
