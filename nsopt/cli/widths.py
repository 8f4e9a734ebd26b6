"""`nsopt widths`: compute the widths of a law at budgets."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nsopt.cli.console import console, make_table, tell_what_is_fixed
from nsopt.cli.options import SizeOptions, refuse_unused
from nsopt.cli.values import Count, CountFrom2, GivenPath, StoredNetworkOptions, StoredOptions
from nsopt.errors import NsoptError
from nsopt.progress import Silent
from nsopt.session.processes import STORAGE_VARIABLE

if TYPE_CHECKING:
    from nsopt.study.laws import NetworkLaw
    from nsopt.study.plan import Requests

_RATIOS = (0.25, 1.0)
_NARROW = 80  # columns of a terminal that is too narrow for all of the table


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WidthsOptions(StoredNetworkOptions, StoredOptions):
    """The options of `nsopt widths`; the law is in a file or in a storage."""

    law: GivenPath = None
    """JSON file with a law, or with one law for each iteration."""
    iteration: Count | None = None
    """With --law: iteration of architecture descent that found the law; by default the last."""
    method: str | None = None
    """Method whose stored law to use; by default neuralscale, the law of the search. That of an
    iteration is neuralscale-iter1, ..."""
    classes: CountFrom2 = 10
    """With --law: classes of the network."""
    image_size: Count = 32
    """With --law: side of its images, in pixels."""
    channels: Count = 3
    """With --law: channels of its images."""
    sizes: SizeOptions = SizeOptions()
    as_json: Annotated[bool, Parameter(name="--json")] = False
    """Print JSON, not a table."""


def widths(options: WidthsOptions = WidthsOptions()) -> None:
    """Print the widths of a law at your budgets. The law is in a storage or in a file.

    Example: nsopt widths --storage sqlite:///study.db --budgets 600k,2M
    """
    from nsopt.cli.preparation import read_sizes
    from nsopt.study.plan import read_requests

    ratios, budgets = read_sizes(options.sizes)
    requested = read_requests(options.sizes.metric, ratios or _RATIOS, budgets)
    if any(size.is_timed for size in requested):
        raise NsoptError(
            "milliseconds are measured: give this budget to nsopt study or nsopt compress, or call "
            "nsopt.solve_measured_widths"
        )
    found = _find_law(options)
    rows = _propose_widths(found, requested, _read_rounding(options.sizes))
    if options.as_json:
        print(json.dumps(rows, indent=1))
    else:
        tell_what_is_fixed(found.arch.summary())
        _print_table(rows)


def _read_rounding(options: SizeOptions) -> dict[str, Any]:
    """Return the rounding, with a number in place of `auto`."""
    from nsopt.compute.device import resolve_compute
    from nsopt.latency.multiples import find_multiple
    from nsopt.latency.runtime import TORCH

    rounding = options.rounding
    if rounding["multiple_of"] == "auto":
        rounding["multiple_of"] = find_multiple(resolve_compute("auto", "fp32"), TORCH, Silent())
    return rounding


def _propose_widths(
    found: "NetworkLaw", requested: "Requests", rounding: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return one row per budget: costs, widths, and the factor by which the budget is outside the
    record of the search. Raises NsoptError for a law of another network.
    """
    from nsopt.scaling.law import PowerLaw
    from nsopt.scaling.metric import Joint, counted_costs
    from nsopt.scaling.record import Iteration
    from nsopt.scaling.solve import solve_widths
    from nsopt.session.presets import rounding_for
    from nsopt.study.plan import make_sizes

    law, arch, iteration = found
    if law.layers != len(arch.base_widths):
        raise NsoptError(
            f"the law has {law.layers} layers and {arch.name} has {len(arch.base_widths)} "
            "searched widths: give the network that was searched as --arch"
        )
    recorded = iteration or law
    rows = []
    for size in make_sizes(arch, requested, **rounding):
        metric, cost = size.metric, size.metric.cost(arch)
        limits = rounding_for(metric=metric, **rounding)
        fit = solve_widths(law, cost, size.budget, *limits, warn=False)
        budgets = {part.name: limit for part, limit in metric.limits_at(size.budget)}
        costs = {part.name: part.cost(arch)(fit.widths) for part in metric.parts}
        is_joint, beyond = isinstance(metric, Joint), None
        if isinstance(recorded, Iteration | PowerLaw):
            beyond = recorded.beyond(cost, size.budget)
        rows.append(
            {
                "ratio": size.ratio,
                "metric": metric.name,
                "budget": budgets if is_joint else size.budget,
                "cost": costs if is_joint else costs[metric.name],
                "binding": metric.binding(fit.binding) if isinstance(metric, Joint) else None,
                **counted_costs(arch, fit.widths.tolist()),
                "layers": list(arch.layer_names),
                "widths": fit.widths.tolist(),
                "beyond_record": beyond,
            }
        )
    return rows


def _find_law(options: WidthsOptions) -> "NetworkLaw":
    from nsopt.methods.registry import LAW_OF_SEARCH, get_method
    from nsopt.models.registry import get_architecture
    from nsopt.scaling.law import read_law
    from nsopt.session.workspace import Workspace
    from nsopt.storage.opening import hide_password, newest_storage
    from nsopt.storage.studies import only_comparison
    from nsopt.study.laws import NetworkLaw, read_stored_law
    from nsopt.tasks.supervise import import_given_task

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
    refuse_unused("without --law", ["iteration", "classes", "image_size", "channels"], options)
    task = import_given_task(options.task)
    workspace = Workspace(url or newest_storage(), Path())
    if not workspace.has_storage:
        raise NsoptError(
            f"nothing is stored at {hide_password(workspace.url)}: run nsopt search first"
        )
    method = get_method(options.method) if options.method else LAW_OF_SEARCH
    name = options.name or only_comparison(workspace.storage)
    return read_stored_law(workspace, name, method, options.arch, task)


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
