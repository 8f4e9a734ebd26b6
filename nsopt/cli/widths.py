"""`nsopt widths`: from a stored or published law to widths at budgets."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nsopt.cli.options import Count, CountFrom2, SizeOptions

if TYPE_CHECKING:
    from nsopt.models.architecture import Architecture
    from nsopt.scaling.law import ScalingLaw

# Imports inside functions keep `nsopt --help` light.
_RATIOS = (0.25, 1.0)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WidthsOptions:
    """The options of `nsopt widths`; the law is in a file or in a storage."""

    law: Path | None = None
    """JSON file of a law, or of one law per iteration."""
    storage: str | None = None
    """Storage URL of a search instead."""
    name: str | None = None
    """ARCH-DATA-PRESET, where the storage holds several."""
    iteration: Count | None = None
    """Of architecture descent; the last by default."""
    arch: str = "vgg11"
    """Architecture of the law in a file."""
    classes: CountFrom2 = 10
    """Classes of the network."""
    image_size: Count = 32
    """Side of its images."""
    channels: Count = 3
    """Channels of its images."""
    sizes: SizeOptions = SizeOptions()
    as_json: Annotated[bool, Parameter(name="--json")] = False
    """Print JSON, not a table."""


def widths(options: WidthsOptions = WidthsOptions()) -> None:
    """Widths of a law at budgets. With --storage the network is the one that was searched."""
    import json

    from nsopt.cli.console import tell_what_is_fixed

    law, arch = _law_and_network(options)
    rows = _proposals(law, arch, options.sizes)
    if options.as_json:
        print(json.dumps(rows, indent=1))
    else:
        tell_what_is_fixed(arch.summary())
        _print_table(rows)


def _proposals(law: "ScalingLaw", arch: "Architecture", sizes: SizeOptions) -> list[dict[str, Any]]:
    """One row per budget: ratio, budget, widths, params, macs."""
    from nsopt.cli.preparation import sizes_of
    from nsopt.errors import NsoptError
    from nsopt.scaling.metric import METRICS, get_metric
    from nsopt.scaling.solve import solve_widths

    if law.layers != len(arch.base_widths):
        raise NsoptError(
            f"the law has {law.layers} layers and {arch.name} has {len(arch.base_widths)} "
            "searched widths: give the --arch that it was found on"
        )
    metric = get_metric(sizes.metric)
    multiple_of, min_width = sizes.multiple_of or 1, sizes.min_width or 1
    cost, rows = metric.cost(arch), []
    for size in sizes_of(sizes, arch, metric, _RATIOS):
        fit = solve_widths(law, cost, size.budget, multiple_of, min_width)
        found = fit.widths.tolist()
        costs = {name: metric.cost(arch)(found) for name, metric in METRICS.items()}
        rows.append({"ratio": size.ratio, "budget": size.budget, **costs, "widths": found})
    return rows


def _law_and_network(options: WidthsOptions) -> "tuple[ScalingLaw, Architecture]":
    from nsopt.errors import NsoptError
    from nsopt.models.registry import get_architecture
    from nsopt.scaling.law_file import read_law

    if (options.law is None) == (options.storage is None):
        raise NsoptError("say where the law is: --law FILE or --storage URL")
    if options.law is None:
        return _stored(str(options.storage), options.name, options.iteration)
    arch = get_architecture(options.arch, options.classes, options.image_size, options.channels)
    return read_law(options.law, options.iteration), arch


def _stored(url: str, name: str | None, number: int | None) -> "tuple[ScalingLaw, Architecture]":
    from nsopt.errors import NsoptError
    from nsopt.models.registry import get_architecture
    from nsopt.storage import schema, trials
    from nsopt.storage.opening import open_storage, shown, storage_errors, storage_exists
    from nsopt.storage.studies import load_studies, only_comparison

    if not storage_exists(url):
        raise NsoptError(f"nothing is stored at {shown(url)}: run a search first")
    with storage_errors(url):
        storage = open_storage(url)
        name = name or only_comparison(storage)
        searched = load_studies(storage, name).get(schema.SEARCH)
        if searched is None:
            raise NsoptError(f"no search of {name} is stored at {shown(url)}: run one first")
        iterations, task = trials.read_iterations(searched), schema.read_task(searched)
    if number is not None and number > len(iterations):
        raise NsoptError(f"{name} has {len(iterations)} iterations, not {number}")
    arch = get_architecture(task.arch, task.classes, task.image_size, task.channels)
    return iterations[(number or len(iterations)) - 1].law, arch


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from nsopt.cli.console import console
    from nsopt.storage.schema import width_key

    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for name in ("ratio", "budget", "params", "macs", "widths"):
        left = name == "widths"
        table.add_column(
            name, justify="left" if left else "right", overflow="fold", no_wrap=not left
        )
    for row in rows:
        numbers = [f"{row[name]:,}" for name in ("budget", "params", "macs")]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:g}"
        table.add_row(ratio, *numbers, width_key(row["widths"]))
    console.print(table)
