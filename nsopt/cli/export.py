"""`nsopt export`: write a network that a study trained to a file for other tools."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from nsopt.cli.options import OptionalStorageUrl, StoredDataOptions

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from nsopt.data.images import ImageSet
    from nsopt.deployment.kept import KeptNetwork

# Imports inside functions keep `nsopt --help` light.


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportOptions(StoredDataOptions):
    """The options of `nsopt export`."""

    study: str
    """Optuna study that trained the network: ARCH-DATA-PRESET/METHOD."""
    out: Path
    """File to write."""
    format: Literal["onnx", "pt2", "state_dict"] = "onnx"
    """onnx for onnxruntime and others, pt2 for torch.export.load, state_dict for
    nsopt.load_network."""
    ratio: float | None = None
    """Width ratio that set the network's budget, such as 0.25."""
    budget: str | None = None
    """The network's budget, instead of --ratio: 600k, 2M, or params=250k,macs=20M."""
    metric: str | None = None
    """Metric of the budget (params, macs or latency), if the study has budgets in several."""
    artifacts: Path | None = None
    """Folder of the stored networks; by default `artifacts` beside an SQLite file."""
    storage: OptionalStorageUrl = None
    """Optuna storage URL of the study; by default the newest study.db under runs/."""
    unchecked: bool = False
    """Write the file without testing it on the test images."""


def export(options: ExportOptions) -> None:
    """Write a study's best network at a budget as ONNX, as a PyTorch program or as weights.

    nsopt loads the file again and checks that it reaches the stored accuracy on the test images.

    Example: nsopt export --study vgg11-digits-smoke/uniform --ratio 0.25 --out small.onnx
    """
    from nsopt.cli.console import console, tell_what_is_fixed
    from nsopt.deployment.check import check_export
    from nsopt.deployment.export import export as write
    from nsopt.errors import NsoptError
    from nsopt.files import check_writable

    check_writable(options.out.parent, "--out")
    if options.out.is_dir():
        raise NsoptError(f"--out {options.out} is a folder: name a file")
    network, fixed, test = _load(options)
    tell_what_is_fixed(fixed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # Only this user may enter this folder, so nobody can put a link where the file is written.
    with tempfile.TemporaryDirectory(prefix=".nsopt-", dir=options.out.parent) as folder:
        unfinished = Path(folder) / options.out.name
        write(network, unfinished, options.format)
        if test is not None:
            check = check_export(network, unfinished, options.format, test)
            console.print(
                f"test accuracy: {check.exported:.2f} % with the file, {check.stored:.2f} % in the "
                f"study; the logits differ from PyTorch's by {check.difference:.0e}",
            )
        unfinished.replace(options.out)
    console.print(str(options.out), soft_wrap=True)


def _load(options: ExportOptions) -> "tuple[KeptNetwork, str, ImageSet | None]":
    """Return the network, its summary of fixed layers, and the test images for a check."""
    import optuna

    from nsopt.deployment.artifacts import BestNetworks, best_trials, describe_network
    from nsopt.deployment.kept import load_network
    from nsopt.errors import NsoptError, unknown_name
    from nsopt.storage import schema
    from nsopt.storage.opening import (
        artifacts_beside,
        existing_storage,
        newest_storage,
        storage_errors,
    )
    from nsopt.study.task import load_task

    url = options.storage or newest_storage()
    with storage_errors(url):
        storage = existing_storage(url)
        names = optuna.get_all_study_names(storage)
        if options.study not in names:
            raise unknown_name("study", options.study, names)
        study = optuna.load_study(study_name=options.study, storage=storage)
        best = list(best_trials(study).values())
        if not best:
            raise NsoptError(f"no network of {options.study} is stored: run the study first")
        chosen = _choose(best, options)
        folder = artifacts_beside(url, options.artifacts)
        if folder is None:
            raise NsoptError(
                f"give the folder with {describe_network(study, chosen)} as --artifacts"
            )
        network = load_network(BestNetworks(folder).file(study, chosen), options.arch)
        fixed = schema.read_task(study).fixed
        if options.unchecked:
            return network, fixed, None
        task = load_task(study, options.data, options.data_dir, options.arch)
    return network, fixed, task.data.test


def _choose(best: "Sequence[FrozenTrial]", options: ExportOptions) -> "FrozenTrial":
    """Return the trial of the network that the options name."""
    from nsopt.errors import NsoptError
    from nsopt.scaling.metric import Joint, Metric, get_metric, read_budgets
    from nsopt.storage.trials import Point, read_point, size_label

    def fits(point: Point) -> bool:
        metric = get_metric(point.metric)
        return (
            (options.metric is None or options.metric == point.metric)
            and (options.ratio is None or options.ratio == point.ratio)
            and (options.budget is None or is_of_budget(metric, point.budget, options.budget))
        )

    def is_of_budget(metric: Metric, budget: float, text: str) -> bool:
        names = "=" in text
        return names == isinstance(metric, Joint) and read_budgets(text, metric) == [
            (metric, budget)
        ]

    points = [(trial, point) for trial in best if (point := read_point(trial))]
    found = [trial for trial, point in points if fits(point)]
    if len(found) == 1:
        return found[0]
    kept = ", ".join(sorted(size_label(p.budget, p.metric, p.ratio) for _, p in points))
    raise NsoptError(f"choose a network with --ratio, --budget or --metric: stored are {kept}")
