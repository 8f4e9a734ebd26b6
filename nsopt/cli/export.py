"""`nsopt export`: write a network that a study trained to a file for other tools."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from nsopt.cli.console import console, tell_what_is_fixed
from nsopt.cli.options import StoredDataOptions, refuse_options_of_images, refuse_unused
from nsopt.cli.values import ArtifactOptions, GivenPath, MetricName, StoredOptions
from nsopt.errors import NsoptError, unknown_name
from nsopt.files import check_writable, written_beside

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from nsopt.reports.results import Results
    from nsopt.scaling.metric import Budget
    from nsopt.session.workspace import Workspace
    from nsopt.tasks.task import Task


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportOptions(StoredDataOptions, ArtifactOptions, StoredOptions):
    study: str | None = None
    """Optuna study that trained the network: ARCH-DATA-PRESET/METHOD. By default nsopt exports the
    network that the comparison's answer names at its largest budget."""
    out: GivenPath = None
    """File to write; by default network.onnx, network.pt2 or network.pt, by the format."""
    format: Literal["onnx", "pt2", "state_dict"] | None = None
    """onnx for onnxruntime and others, pt2 for torch.export.load, state_dict for
    nsopt.load_network. By default by the suffix of --out: .onnx, .pt2, .pt or .pth; onnx if it has
    none."""
    ratio: float | None = None
    """Width ratio that set the network's budget, such as 0.25."""
    budget: str | None = None
    """The network's budget, instead of --ratio: 600k, 2M, params=250k,macs=20M, or that of nsopt
    compress as it stands in its table, such as macs=50%."""
    metric: MetricName | None = None
    """Metric of the budget, if the study has budgets in several."""
    unchecked: bool = False
    """Write the file without testing it on the test images."""


def export(options: ExportOptions = ExportOptions()) -> None:
    """Write a study's best network at a budget as ONNX, as a PyTorch program or as weights.

    nsopt loads the file again and checks that it reaches the stored accuracy on the test images.

    Example: nsopt export --study vgg11-digits-smoke/uniform --ratio 0.25 --out small.onnx
    """
    from nsopt.deployment.export import check_export, choose_format, compare_outputs
    from nsopt.deployment.export import export as write
    from nsopt.deployment.kept import load_network
    from nsopt.session.stored import load_images
    from nsopt.session.subject import read_architecture
    from nsopt.storage.schema import read_task
    from nsopt.tasks.supervise import import_given_task

    form = choose_format(options.out or Path(), options.format)
    if options.task is not None:
        refuse_options_of_images(options)
    if options.study is not None:
        refuse_unused("with --study", ["name"], options)
    out = options.out or Path(f"network.{'pt' if form == 'state_dict' else form}")
    check_writable(out.parent, "--out")
    if out.is_dir():
        raise NsoptError(f"--out {out} is a folder: name a file")
    task = import_given_task(options.task)
    study, file = _find(options, task)
    described, arch, images = read_task(study), None, None
    if task is not None:
        arch = read_architecture(described, options.arch, task)
    elif not options.unchecked:
        images = load_images(study, options.data, options.data_dir)
    network = load_network(file, arch or options.arch)
    tell_what_is_fixed(described.fixed)
    with written_beside(out) as unfinished:
        write(network, unfinished, form, task)
        if arch is not None and task is not None and not options.unchecked:
            apart = compare_outputs(network, unfinished, form, arch, task.inputs)
            console.print(f"the outputs of the file differ from PyTorch's by {apart:.0e}")
        if images is not None:
            check = check_export(network, unfinished, form, images.test)
            console.print(
                f"test accuracy: {check.exported:.2f} % with the file, {check.stored:.2f} % in the "
                f"study; the logits differ from PyTorch's by {check.difference:.0e}"
            )
    console.print(str(out), soft_wrap=True)


def export_command(
    workspace: "Workspace", chosen: Mapping[str, Any], arch: str, task: str | None = None
) -> str:
    """Return the command that exports the network that these options choose."""
    from nsopt.models.registry import is_own
    from nsopt.storage.opening import artifacts_beside, hide_password

    named = {"storage": hide_password(workspace.url), **chosen}
    if task is not None:
        named["task"] = task
    if is_own(arch):
        named["arch"] = arch
    if artifacts_beside(workspace.url) != workspace.artifacts:
        named["artifacts"] = str(workspace.artifacts)
    named["out"] = "network.onnx"
    return shlex.join(["nsopt", "export", *(f"--{name}={word}" for name, word in named.items())])


def name_answer(results: "Results") -> dict[str, Any]:
    """Return the options that name the network to take at the largest budget."""
    import pandas as pd

    from nsopt.reports.words import answer
    from nsopt.scaling.metric import get_metric
    from nsopt.storage.schema import study_name

    best = answer(results)[-1].row
    study = {"study": study_name(results.name, best["method"])}
    if len(get_metric(best["metric"]).parts) > 1:
        return {**study, "budget": best["metric"]}
    metrics = {"metric": best["metric"]} if results.outcomes["metric"].nunique() > 1 else {}
    if pd.isna(best["ratio"]):
        return {**study, "budget": f"{best['budget']:.17g}", **metrics}
    return {**study, "ratio": float(best["ratio"]), **metrics}


def _find(options: ExportOptions, task: "Task | None") -> "tuple[Study, Path]":
    """Return the study, and the file of the network, that the options name."""
    import optuna

    from nsopt.deployment.artifacts import BestNetworks, best_trials, describe_network
    from nsopt.storage.opening import artifacts_beside, existing_storage, storage_file

    url = options.find_url()
    results = storage_file(url)
    if results and options.out and options.out.resolve() == results.resolve():
        raise NsoptError(f"--out {options.out} is the storage of the study: name another file")
    storage = existing_storage(url)
    if options.study is None:
        options = _with_answer(options, url)
    name, names = str(options.study), optuna.get_all_study_names(storage)
    if name not in names:
        stored = (optuna.load_study(study_name=known, storage=storage) for known in names)
        raise unknown_name("study", name, [s.study_name for s in stored if best_trials(s)])
    study = optuna.load_study(study_name=name, storage=storage)
    best = list(best_trials(study).values())
    if not best:
        raise NsoptError(f"no network of {name} is stored: run the study first")
    trial = _choose(best, options, _read_shares(options, study, task))
    folder = artifacts_beside(url, options.artifacts)
    if folder is None:
        raise NsoptError(f"give the folder with {describe_network(study, trial)} as --artifacts")
    return study, BestNetworks(folder).file(study, trial)


def _with_answer(options: ExportOptions, url: str) -> ExportOptions:
    """Return the options with those that name the answer of their comparison at `url`.

    For a compression a budget may be given, as it stands in its table.
    """
    from nsopt.reports.results import read_results
    from nsopt.storage.schema import DENSE, study_name

    results = read_results(url, options.name)
    for row in results.networks:
        if row.budget == options.budget:
            budget = None if row.widths_by == DENSE else options.budget
            return replace(options, study=study_name(results.name, row.widths_by), budget=budget)
    if results.networks and options.budget is not None:
        known = ", ".join(row.budget for row in results.networks[1:])
        raise NsoptError(f"no network at --budget {options.budget}: stored are {known}")
    if (options.ratio, options.budget, options.metric) != (None, None, None):
        raise NsoptError("--ratio, --budget and --metric choose a network of --study: give it, too")
    named = name_answer(results)
    console.print(f"exporting {' '.join(f'--{name}={word}' for name, word in named.items())}")
    return replace(options, **named)


def _read_shares(options: ExportOptions, study: "Study", task: "Task | None") -> "Sequence[Budget]":
    """Return the budgets that the user gave as shares of the base network's cost, as numbers."""
    from nsopt.scaling.metric import PARAMS, get_metric, read_budgets
    from nsopt.session.subject import read_architecture, with_stored_latency
    from nsopt.settings import Timed
    from nsopt.storage.schema import read_settings, read_task

    if options.budget is None or "%" not in options.budget:
        return ()
    settings = read_settings(study)
    timed = Timed(settings["runtime"], settings["latency_batch_size"])
    arch = read_architecture(read_task(study), options.arch, task)
    arch = with_stored_latency(arch, [study], timed)
    requested = read_budgets(options.budget, get_metric(options.metric or PARAMS.name))
    return [budget.at(arch) for budget in requested]


def _choose(
    best: "Sequence[FrozenTrial]", options: ExportOptions, shares: "Sequence[Budget]" = ()
) -> "FrozenTrial":
    """Return the trial of the network that the options name.

    Args:
        shares: see `_read_shares`.
    """
    from nsopt.scaling.metric import Limit, read_budgets
    from nsopt.storage.trials import Point, read_point

    def fits(point: Point) -> bool:
        if options.metric not in (None, point.metric.name):
            return False
        if options.ratio not in (None, point.ratio):
            return False
        try:
            named = shares or read_budgets(options.budget or "", point.metric)
        except NsoptError:  # the text of a budget in another metric
            return False
        limits = {Limit(*limit) for limit in point.metric.limits_at(point.budget)}
        return options.budget is None or [set(budget.limits) for budget in named] == [limits]

    points = [(trial, point) for trial in best if (point := read_point(trial))]
    matches = [trial for trial, point in points if fits(point)]
    if len(matches) == 1:
        return matches[0]
    ordered = sorted((p for _, p in points), key=lambda p: (p.metric.name, p.budget))
    kept = ", ".join(point.size for point in ordered)
    raise NsoptError(f"choose a network with --ratio, --budget or --metric: stored are {kept}")
