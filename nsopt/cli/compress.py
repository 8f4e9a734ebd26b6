"""`nsopt compress`: a trained network in, smaller ones at budgets out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from nsopt.cli.options import (
    Count,
    NetworkOptions,
    PlaceOptions,
    PruneOptions,
    RoundingOptions,
    SgdOptions,
    TimingOptions,
    TrainingOptions,
    changes,
)
from nsopt.errors import NsoptError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nsopt.compression.result import Compressed
    from nsopt.data.images import ImageSet


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    """The options of `nsopt compress`."""

    weights: Path | None = None
    """Weights of the whole network: a state_dict that torch.save wrote, or a file that nsopt
    wrote. Not needed if your own function, --arch package.module:factory, returns the network with
    its trained weights."""
    budgets: Annotated[str, Parameter(group="Budgets")]
    """What the smaller networks may cost: macs=50%,params=600k,latency=5ms makes three networks.
    With a semicolon, it separates the networks, and commas join budgets that hold at once:
    "macs=50%,latency=5ms; params=600k" makes two."""
    candidates: Annotated[int, Parameter(group="Budgets", validator=Number(gte=1))] = 16
    """Sets of widths to try for each budget. A few training steps give each a score."""
    seeds: Count = 1
    """Fine-tunings of each network, each with its own seed; nsopt keeps the best by validation
    accuracy."""
    workers: Count = 1
    """Processes on this machine that share the fine-tuning."""
    task: NetworkOptions = NetworkOptions()
    rounding: RoundingOptions = RoundingOptions()
    search: PruneOptions = PruneOptions()
    training: TrainingOptions = TrainingOptions()
    sgd: SgdOptions = SgdOptions()
    place: PlaceOptions = PlaceOptions()
    timing: TimingOptions = TimingOptions()


def compress(options: CompressOptions) -> None:
    """Make a trained network smaller: prune, choose widths by scores, fine-tune, measure, export.

    Repeat the command to continue an interrupted run.

    Example: nsopt compress --weights trained.pt --data cifar10 --budgets macs=50%,latency=20ms
    """
    options.task.check_names()
    from nsopt.cli.console import console, live_progress, print_storage
    from nsopt.cli.preparation import announce, apply_changes, prepare, with_known_multiple
    from nsopt.compression.budgets import check_words, split_budgets
    from nsopt.compression.classifier_compression import prepare_budgets, run_compression
    from nsopt.compression.compress import PRESET
    from nsopt.methods.registry import DENSE
    from nsopt.reports.page import write_report
    from nsopt.reports.words import doubt_latencies
    from nsopt.storage import schema
    from nsopt.study.presets import get_preset

    budgets = split_budgets(options.budgets)
    check_words(budgets)
    if options.task.task is not None:
        _compress_task(options, budgets)
        return
    preset = get_preset(PRESET)
    rounding = with_known_multiple(options.rounding, options.sgd.device, options.timing).rounding
    changed = changes(options.search, options.training, options.sgd, **rounding)
    settings = apply_changes(preset, changed)
    task, workspace = prepare(
        options.task,
        options.place,
        settings,
        workers=options.workers,
        start=options.weights,
        compresses=True,
        timing=options.timing,
    )
    announce(task, preset, options.place.verbose)
    with live_progress() as progress:
        task, found = prepare_budgets(task, budgets, workspace, progress)
        result = run_compression(
            task, found, options.candidates, options.seeds, workspace, progress
        )
    rows, folder = result.rows(), workspace.folder
    rows[0]["files"] = ""
    for row, compressed in zip(rows[1:], result.networks.values(), strict=True):
        row["files"] = _export(compressed, folder, task.images.test)
    schema.write_networks(workspace.studies(task.name)[DENSE.name], rows)
    _print_table(rows, f"{task.name}; {result.results.latency_unit}")
    if doubt := doubt_latencies(result.results):
        console.print(doubt)
    console.print(f"files:   {folder}", soft_wrap=True)
    page = write_report(result.results, folder / "report", rows)
    console.print(f"report:  {page}", soft_wrap=True)
    print_storage(workspace.url)


def _compress_task(options: CompressOptions, budgets: "Sequence[str]") -> None:
    """Make a network of the user's task smaller; write its networks and its report."""
    import torch

    from nsopt.cli.console import console, live_progress
    from nsopt.cli.preparation import prepare, with_known_multiple
    from nsopt.compression.compress import PRESET, compress_subject
    from nsopt.study.presets import get_preset, override

    if options.workers > 1:
        raise NsoptError("a task of yours is compressed in one process: leave --workers out")
    rounding = with_known_multiple(options.rounding, options.sgd.device, options.timing).rounding
    settings = override(get_preset(PRESET).settings, {"training": {"distillation": None}})
    changed = changes(options.search, options.training, options.sgd, **rounding)
    settings = override(settings, changed)
    subject, workspace = prepare(
        options.task,
        options.place,
        settings,
        start=options.weights,
        compresses=True,
        timing=options.timing,
    )
    with live_progress() as progress:
        result = compress_subject(
            subject, budgets, options.candidates, options.seeds, workspace.folder, progress
        )
    rows, folder = result.rows(), workspace.folder
    for row, network in zip(rows[1:], result.networks.values(), strict=True):
        file = folder / f"{_name_file(network.budget)}.pt"
        torch.save(network.model.state_dict(), file)
        row["files"] = file.name
    rows[0]["files"] = ""
    _print_table(rows, subject.name)
    console.print(f"files:   {folder}", soft_wrap=True)
    console.print(f"report:  {result.report(folder / 'report')}", soft_wrap=True)


def _name_file(budget: str) -> str:
    return budget.replace("=", "-").replace("%", "-percent")


def _export(compressed: "Compressed", folder: Path, test: "ImageSet") -> str:
    """Write a network's weights, and ONNX if it then computes the same on the test images.

    Returns:
        The names of the files, and why there is none in ONNX.
    """
    from nsopt.cli.extras import has_extra, install_command
    from nsopt.deployment.check import compare_export
    from nsopt.deployment.export import export
    from nsopt.files import written_beside

    name = _name_file(compressed.budget)
    export(compressed.network, folder / f"{name}.pt", "state_dict")
    if not has_extra("export"):
        return f"{name}.pt (ONNX: {install_command('export')})"
    try:
        with written_beside(folder / f"{name}.onnx") as unfinished:
            export(compressed.network, unfinished, "onnx")
            compare_export(compressed.network, unfinished, "onnx", test)
    except NsoptError as error:
        return f"{name}.pt (no ONNX: {error})"
    return f"{name}.onnx, {name}.pt"


def _print_table(rows: "Sequence[Mapping[str, str]]", title: str) -> None:
    """Print the networks; on a narrow terminal without what is in brackets."""
    from nsopt.cli.console import console, fits, make_table

    left = "budget", "widths by", "files"
    table = make_table(rows, title, left)
    if not fits(table):
        brief = [
            {name: text if name == "files" else text.split(" (")[0] for name, text in row.items()}
            for row in rows
        ]
        table = make_table(brief, title, left)
    console.print(table)
