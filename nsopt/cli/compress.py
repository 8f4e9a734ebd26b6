"""`nsopt compress`: a trained network in, smaller ones at budgets out."""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nsopt.cli.console import (
    console,
    describe_storage,
    fits,
    has_extra,
    install_command,
    live_progress,
    make_fitting_table,
    make_table,
    publish_if_installed,
)
from nsopt.cli.interruption import INTERRUPTED, interruptible
from nsopt.cli.options import (
    DescentOptions,
    NetworkOptions,
    OutputOptions,
    RoundingOptions,
    SgdOptions,
    TimingOptions,
    TrainingOptions,
    WorkersOptions,
    changes,
    refuse_unused,
)
from nsopt.cli.values import GivenPath
from nsopt.errors import NsoptError
from nsopt.files import written_beside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nsopt.compression.result import Compressed, Compression
    from nsopt.data.images import ImageData
    from nsopt.deployment.kept import KeptNetwork
    from nsopt.models.architecture import Architecture
    from nsopt.storage.schema import NetworkRow
    from nsopt.tasks.task import Task

# Columns that a narrow terminal does not show; those with budgets go last.
_LEFT_OUT_FIRST = "agreement %", "params", "MACs", "widths by"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CompressOptions(WorkersOptions):
    weights: GivenPath = None
    """Weights of the whole network: a state_dict that torch.save wrote, or a file that nsopt
    wrote. Not needed if your own function, --arch package.module:factory, returns the network with
    its trained weights."""
    budgets: Annotated[str, Parameter(group="Budgets")]
    """What the smaller networks may cost: macs=50%,params=600k,latency=5ms makes three networks;
    curve makes nine from 90 to 10 % of the MACs. With a semicolon, it separates the networks, and
    commas join budgets that hold at once: "macs=50%,latency=5ms; params=600k" makes two."""
    task: NetworkOptions = NetworkOptions()
    rounding: RoundingOptions = RoundingOptions()
    training: TrainingOptions = TrainingOptions()
    sgd: SgdOptions = SgdOptions()
    output: OutputOptions = OutputOptions()
    timing: TimingOptions = TimingOptions()


def compress(options: CompressOptions) -> None:
    """Make a trained network smaller: choose widths, fit layers, fine-tune, measure, export.

    Repeat the command to continue an interrupted run.

    Example: nsopt compress --weights trained.pt --data cifar10 --budgets macs=50%,latency=20ms
    """
    options.task.check_names(options.sgd)
    if options.training.epochs == 0:
        unused = {"lr", *vars(options.training)} - {"epochs"}
        refuse_unused("with --epochs 0", unused, options.sgd, options.training)
    from nsopt.cli.export import export_command
    from nsopt.cli.preparation import announce, prepare
    from nsopt.compression.budgets import read_words, split_budgets
    from nsopt.compression.compress import PRESET, get_settings
    from nsopt.compression.compress import compress as run
    from nsopt.deployment.kept import copy_traced
    from nsopt.models.registry import is_own
    from nsopt.reports.page import write_report
    from nsopt.reports.tables import format_networks
    from nsopt.reports.words import warn_of_latencies, warn_of_split
    from nsopt.session.presets import get_preset, override
    from nsopt.storage.schema import DENSE, study_name, write_networks

    network, file = options.task, options.weights
    budgets = split_budgets(options.budgets)
    read_words(budgets)
    if file is None and not is_own(network.arch):
        raise NsoptError(f"give the file with the trained weights of {network.arch} as --weights")
    study = options.rounding.rounding | options.timing.changes | {"seeds": options.seeds}
    changed = changes(DescentOptions(), options.training, options.sgd, study)
    settings = override(get_settings(network.task is None), changed)
    given = network, options.output, settings, options.training
    arch, data, settings, workspace = prepare(*given, workers=options.workers, start=file)
    model = copy_traced(arch) if file is None else settings.start
    question, verbose = get_preset(PRESET).question, options.output.verbose
    announce(arch, data, settings, question, verbose, parts=["training"], starts_trained=True)
    if warning := warn_of_split(network.split):
        console.print(warning)
    with interruptible(), live_progress() as progress:
        configured = partial(run, model, data, budgets, arch=arch, settings=settings)
        result = configured(out=workspace, progress=progress)
    networks = _export_all(result, workspace.folder, arch, data)
    write_networks(workspace.studies(result.name)[DENSE], networks)
    results = result.results
    page = write_report(results, workspace.folder / "report")
    publish_if_installed(results, workspace.url)
    first = next(iter(result.values()))  # of the smaller networks
    chosen = {"study": study_name(result.name, first.method), "budget": first.budget}
    lines = [
        *filter(None, (warning, warn_of_latencies(results))),
        f"files:   {workspace.folder}",
        f"report:  {page}",
        describe_storage(workspace.url),
        f"export:  {export_command(workspace, chosen, network.arch, network.task)}",
    ]
    rows = format_networks(networks, result.about.score_name)
    _print_answer(f"{result.name}; {results.latency_unit}", rows, lines)
    if result.is_interrupted:
        sys.exit(INTERRUPTED)


def _export_all(
    result: "Compression", folder: Path, arch: "Architecture", data: "ImageData | Task"
) -> "list[NetworkRow]":
    """Write the files of the networks; return the rows of all, with the names of their files."""
    forms = ["onnx", "pt2"]
    if not has_extra("export"):
        console.print(f"no ONNX files: {install_command('export')}", soft_wrap=True)
        forms.remove("onnx")
    whole, *smaller = result.rows()
    files = [_export(result[row.budget], folder, arch, data, forms) for row in smaller]
    return [whole, *(replace(row, files=names) for row, names in zip(smaller, files, strict=True))]


def _export(
    compressed: "Compressed",
    folder: Path,
    arch: "Architecture",
    data: "ImageData | Task",
    forms: "Sequence[str]",
) -> str:
    """Write a network's weights, and what other tools run if it then computes the same.

    The weights are written last: if they are the same, its other files stay.

    Returns:
        The names of the files, and why one is missing.
    """
    from nsopt.deployment.export import export

    name = compressed.budget.replace(" ", "").replace("=", "-").replace("%", "-percent")
    weights, written = folder / f"{name}.pt", []
    is_known = _holds(weights, compressed, arch)
    for form in forms:
        file = folder / f"{name}.{form}"
        try:
            if not (is_known and file.is_file()):
                _export_checked(compressed.network, file, form, arch, data)
            written.append(file.name)
        except NsoptError as error:
            file.unlink(missing_ok=True)
            written.append(f"(no {form}: {error})")
    if not is_known:
        export(compressed.network, weights, "state_dict")
    return ", ".join([*written, f"{name}.pt"])


def _holds(file: Path, compressed: "Compressed", arch: "Architecture") -> bool:
    from nsopt.compute.checkpoint import weights_checksum
    from nsopt.deployment.kept import load_network

    try:
        stored = load_network(file, arch).model
    except NsoptError:
        return False
    return weights_checksum(stored) == weights_checksum(compressed.network.model)


def _export_checked(
    network: "KeptNetwork", path: Path, form: str, arch: "Architecture", data: "ImageData | Task"
) -> None:
    """Write a file if it then computes the same; raise NsoptError otherwise."""
    from nsopt.deployment.export import compare_export, compare_outputs, export
    from nsopt.tasks.task import Task

    with written_beside(path) as unfinished:
        export(network, unfinished, form, data)
        if isinstance(data, Task):
            compare_outputs(network, unfinished, form, arch, data.inputs)
        else:
            compare_export(network, unfinished, form, data.test)


def _print_answer(title: str, rows: "Sequence[Mapping[str, str]]", lines: "Sequence[str]") -> None:
    """Print the networks, on a narrow terminal without what is in brackets, and their files."""
    shown = [{name: text for name, text in row.items() if name != "files"} for row in rows]
    left = "budget", "widths by"
    table = make_table(shown, title, left)
    if not fits(table):
        brief = [{name: text.split(" (")[0] for name, text in row.items()} for row in shown]
        budgets = " ".join(row["budget"].lower() for row in brief)
        left_out = sorted(_LEFT_OUT_FIRST, key=lambda name: name.lower() in budgets)
        table = make_fitting_table(brief, title, left, left_out)
    console.print(table)
    files = [f"{row['budget']}: {row['files']}" for row in rows[1:]]
    for line in (*files, *lines):
        console.print(line, soft_wrap=True)
