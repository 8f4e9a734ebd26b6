"""Measuring the networks of a stored comparison side by side, on this device or another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState

from nsopt.compute.device import Compute, resolve_compute
from nsopt.errors import NsoptError
from nsopt.experiments.sharing import sharing
from nsopt.experiments.task import Task, stored_network
from nsopt.experiments.workspace import Workspace
from nsopt.latency.measure import Latency, distrust, latency_conditions, measure_latencies
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.storage import schema, trials
from nsopt.storage.studies import load_studies, only_comparison
from nsopt.storage.urls import hide_password

_PASSES = 50


@dataclass(frozen=True)
class Measured:
    """One network of a comparison. sizes: in words, the budgets at which it was proposed."""

    method: str
    sizes: tuple[str, ...]
    widths: tuple[int, ...]
    latency: Latency


def measure_again(
    workspace: Workspace,
    name: str | None,
    given: str | None,
    batch_sizes: Sequence[int],
    device: str,
    threads: int | None,
    progress: Progress,
) -> list[Measured]:
    """Measure all trained networks of the comparison `name` side by side, equal ones once, and
    store it.

    given: the name of the architecture, if the user gave one (`stored_architecture`).

    What was measured under other conditions (device, threads, precision, batch size, version of
    torch) stays beside it; under the same ones it is replaced. NsoptError if nothing is stored.
    """
    if not workspace.has_storage:
        raise NsoptError(f"nothing is stored at {hide_password(workspace.url)}: run a study first")
    name = name or only_comparison(workspace.storage)
    networks = _trained(workspace.storage, name)
    if not networks:
        raise NsoptError(
            f"no completed trial of {name} at {hide_password(workspace.url)}: nothing to time"
        )
    arch = stored_network(schema.read_task(networks[0].study), (), given)
    found = []
    with sharing(resolve_compute(device, "fp32")) as compute:
        progress.start("measuring latency", len(batch_sizes))
        for batch_size in batch_sizes:
            with compute.exclusive():
                if threads is not None:
                    torch.set_num_threads(threads)
                found += _side_by_side(arch, networks, batch_size, compute.device, progress)
            progress.advance()
    return found


def measure_together(
    task: Task, workspace: Workspace, compute: Compute, progress: Progress
) -> None:
    """Measure all trained networks of a comparison side by side, if some were measured here, but
    not all at once: such latencies cannot be compared."""
    networks = _trained(workspace.storage, task.name)
    with compute.exclusive():
        conditions = latency_conditions(compute.device)
        known = [schema.read_latency(each.study, each.widths, conditions) for each in networks]
        sittings = {latency.get("sitting") if latency else None for latency in known}
        if not any(known) or (len(sittings) == 1 and None not in sittings):
            return
        progress.start("measuring all latencies side by side", 1)
        _side_by_side(task.arch, networks, conditions["batch_size"], compute.device, progress)


@dataclass(frozen=True, eq=False)
class _Network:
    """Trained for a method. sizes: as `Measured` has them."""

    method: str
    study: Study
    widths: tuple[int, ...]
    sizes: tuple[str, ...]


def _side_by_side(
    arch: Architecture,
    networks: Sequence[_Network],
    batch_size: int,
    device: torch.device,
    progress: Progress,
) -> list[Measured]:
    """Measure networks, equal ones once, and store it; other processes should wait meanwhile."""
    different = list(dict.fromkeys(network.widths for network in networks))
    models = [arch.build(widths) for widths in different]
    measured = measure_latencies(
        models, arch.input_shape, batch_size, repeats=_PASSES, device=str(device)
    )
    warning = distrust(measured)
    if warning:
        progress.message(warning)
    conditions = latency_conditions(device, batch_size)
    latencies = dict(zip(different, measured, strict=True))
    found = []
    for network in networks:
        latency = latencies[network.widths]
        schema.write_latency(network.study, network.widths, conditions, asdict(latency))
        found.append(Measured(network.method, network.sizes, network.widths, latency))
    return found


def _trained(storage: BaseStorage, name: str) -> list[_Network]:
    """The networks that a comparison has trained, by method and widths."""
    return [
        _Network(method, study, widths, tuple(sizes))
        for method, study in load_studies(storage, name).items()
        if not schema.is_search(method)
        for widths, sizes in _networks(study).items()
    ]


def _networks(study: Study) -> dict[tuple[int, ...], list[str]]:
    """The widths that were trained, with the sizes for which."""
    names = schema.read_task(study).layer_names
    found: dict[tuple[int, ...], list[str]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        point = trials.read_point(trial)
        if point is not None:
            sizes = found.setdefault(trials.read_widths(trial, names), [])
            label = trials.size_label(point.budget, point.metric, point.ratio)
            if label not in sizes:
                sizes.append(label)
    return found
