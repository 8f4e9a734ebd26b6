"""`nsopt compress`: a trained network in, smaller ones at budgets out."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nsopt.cli.console import (
    console,
    describe_storage,
    fits,
    live_progress,
    make_fitting_table,
    make_table,
)
from nsopt.cli.extras import has_extra, install_command, publish_if_installed
from nsopt.cli.interruption import INTERRUPTED, interruptible
from nsopt.cli.options import (
    NetworkOptions,
    PlaceOptions,
    PruneOptions,
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

    from nsopt.compression.result import Compressed
    from nsopt.deployment.kept import KeptNetwork
    from nsopt.session.subject import Subject

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
    place: PlaceOptions = PlaceOptions()
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
    from nsopt.cli.preparation import announce, prepare, with_known_multiple
    from nsopt.compression.budgets import CURVE, check_budgets, read_words, split_budgets
    from nsopt.compression.compress import PRESET, get_settings
    from nsopt.compression.pipeline import run_compression
    from nsopt.reports.doubts import describe_fits, doubt_latencies, doubt_split
    from nsopt.reports.page import write_report
    from nsopt.session.presets import get_preset, override
    from nsopt.storage import schema
    from nsopt.storage.networks import format_networks

    budgets = read_words(split_budgets(options.budgets))
    preset = replace(get_preset(PRESET), settings=get_settings(options.task.task is None))
    rounding = with_known_multiple(options.rounding, options.sgd.device, options.timing).rounding
    changed = changes(PruneOptions(), options.training, options.sgd, **rounding)
    settings = override(preset.settings, changed)
    subject, workspace = prepare(
        options, settings, workers=options.workers, start=options.weights, compresses=True
    )
    announce(subject, preset, options.place.verbose)
    if doubt := doubt_split(options.task.split):
        console.print(doubt)
    forms = []
    if CURVE not in budgets:
        check_budgets(budgets, subject.arch, settings)  # before exporting, which takes seconds
        files = [workspace.folder / f"{_name_file(budget.word)}.pt" for budget in budgets]
        forms = _choose_forms(subject, tries=not all(map(Path.is_file, files)))
    with interruptible(), live_progress() as progress:
        result = run_compression(subject, budgets, options.seeds or 1, workspace, progress)
    (whole, *smaller), folder = result.rows(), workspace.folder
    smaller = [
        replace(row, files=_export(result[row.budget], folder, subject, forms)) for row in smaller
    ]
    schema.write_networks(workspace.studies(subject.name)[schema.DENSE], [whole, *smaller])
    results = result.results
    page = write_report(results, folder / "report")
    publish_if_installed(results, workspace.url)
    study = schema.study_name(subject.name, smaller[0].widths_by)
    chosen, network = {"study": study, "budget": smaller[0].budget}, options.task
    rows = format_networks([whole, *smaller], subject.description.score_name)
    lines = [
        *filter(None, (doubt, describe_fits(results), doubt_latencies(results))),
        f"files:   {folder}",
        f"report:  {page}",
        describe_storage(workspace.url),
        f"export:  {export_command(workspace, chosen, network.arch, network.task)}",
    ]
    _print_answer(f"{subject.name}; {results.latency_unit}", rows, lines)
    if result.is_interrupted:
        sys.exit(INTERRUPTED)


def _name_file(budget: str) -> str:
    return budget.replace(" ", "").replace("=", "-").replace("%", "-percent")


def _choose_forms(subject: "Subject", tries: bool) -> list[str]:
    """Return the formats in which networks are exported; say now which ones fail, and why.

    Args:
        tries: whether to try, which takes seconds; a finished run has tried.
    """
    from nsopt.deployment.export import find_obstacles, list_batches
    from nsopt.tasks.outputs import make_example
    from nsopt.tasks.task import Task

    forms = ["onnx", "pt2"]
    if not has_extra("export"):
        console.print(f"no ONNX files: {install_command('export')}", soft_wrap=True)
        forms.remove("onnx")
    if not tries:
        return forms
    assert subject.start is not None
    data = subject.data
    batches = list_batches(data if isinstance(data, Task) else make_example(data))
    obstacles = find_obstacles(subject.start, batches, forms)
    for form, reason in obstacles.items():
        console.print(f"no {form} files: {reason}", soft_wrap=True)
    return [form for form in forms if form not in obstacles]


def _export(
    compressed: "Compressed", folder: Path, subject: "Subject", forms: "Sequence[str]"
) -> str:
    """Write a network's weights, and what other tools run if it then computes the same.

    The weights are written last: beside the same weights, files that are not newer stay.

    Returns:
        The names of the files, and why one is missing.
    """
    from nsopt.deployment.export import export

    name = _name_file(compressed.budget)
    weights, written = folder / f"{name}.pt", []
    is_known, is_changed = _holds(weights, compressed, subject), False
    for form in forms:
        file = folder / f"{name}.{form}"
        try:
            if not (is_known and _is_unchanged(file, weights)):
                is_changed = True
                _export_checked(compressed.network, file, form, subject)
            written.append(file.name)
        except NsoptError as error:
            file.unlink(missing_ok=True)
            written.append(f"(no {form}: {error})")
    if is_changed or not is_known:
        export(compressed.network, weights, "state_dict")
    return ", ".join([*written, f"{name}.pt"])


def _holds(file: Path, compressed: "Compressed", subject: "Subject") -> bool:
    from nsopt.compute.checkpoint import weights_checksum
    from nsopt.deployment.kept import load_network

    try:
        stored = load_network(file, subject.arch).model
    except NsoptError:
        return False
    return weights_checksum(stored) == weights_checksum(compressed.network.model)


def _is_unchanged(file: Path, weights: Path) -> bool:
    """Return whether a file is as it was when the weights beside it were written."""
    return file.is_file() and file.stat().st_mtime_ns <= weights.stat().st_mtime_ns


def _export_checked(network: "KeptNetwork", path: Path, form: str, subject: "Subject") -> None:
    """Write a file if it then computes the same; raise NsoptError otherwise."""
    from nsopt.data.images import ImageData
    from nsopt.deployment.check import compare_export, compare_outputs
    from nsopt.deployment.export import export

    with written_beside(path) as unfinished:
        export(network, unfinished, form, subject.data)
        if isinstance(subject.data, ImageData):
            compare_export(network, unfinished, form, subject.data.test)
        else:
            compare_outputs(network, unfinished, form, subject.arch, subject.inputs)


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
