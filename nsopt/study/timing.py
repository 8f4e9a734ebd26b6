"""Time the networks of a comparison side by side, on this device or another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from optuna.storages import BaseStorage
from optuna.study import Study

from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.sharing import sharing
from nsopt.errors import NsoptError
from nsopt.latency.measure import Latency, distrust, latency_conditions, measure_latencies
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.storage import schema, trials
from nsopt.storage.studies import load_studies, only_comparison
from nsopt.storage.urls import hide_password
from nsopt.study.session import Session
from nsopt.study.task import read_architecture
from nsopt.study.workspace import Workspace

_BATCH = 100
Network = tuple[Study, tuple[int, ...]]


def time_networks(
    arch: Architecture,
    networks: Sequence[Network],
    compute: Compute,
    progress: Progress,
    batch_size: int = _BATCH,
) -> dict[tuple[int, ...], Latency]:
    """Time networks side by side, equal ones once, and store each latency with its study.

    The caller holds the device (`Compute.exclusive`). If the machine was busy, a message warns.

    Args:
        networks: pairs of a study and the widths of one of its networks.

    Returns:
        The latencies by widths.
    """
    different = list(dict.fromkeys(widths for _, widths in networks))
    models = [arch.build(widths) for widths in different]
    device = str(compute.device)
    measured = measure_latencies(models, arch.input_shape, batch_size, device=device)
    latencies = dict(zip(different, measured, strict=True))
    conditions = latency_conditions(compute.device, batch_size)
    for study, widths in networks:
        schema.write_latency(study, widths, conditions, asdict(latencies[widths]))
    warning = distrust(measured)
    if warning:
        progress.message(warning)
    return latencies


def find_latencies(session: Session, networks: Sequence[Network]) -> list[Latency]:
    """Return the latencies of networks on this device. Time the missing ones side by side.

    A network has one latency, whichever methods propose it: a latency in one study of the
    comparison also counts for the others.
    """
    with session.compute.exclusive():
        conditions = latency_conditions(session.compute.device)
        known = _read_latencies(session, conditions)
        missing = [(study, widths) for study, widths in networks if widths not in known]
        if missing:
            known |= time_networks(session.task.arch, missing, session.compute, session.progress)
    for study, widths in networks:
        if schema.read_latency(study, widths, conditions) is None:
            schema.write_latency(study, widths, conditions, asdict(known[widths]))
    return [known[widths] for _, widths in networks]


def time_together(session: Session) -> None:
    """Time all trained networks of a comparison again, unless they were timed together here.

    Latencies from different times cannot be compared. Nothing happens if none was timed on this
    device.
    """
    networks = [
        each.network for each in _find_trained(session.workspace.storage, session.task.name)
    ]
    with session.compute.exclusive():
        conditions = latency_conditions(session.compute.device)
        known = [schema.read_latency(study, widths, conditions) for study, widths in networks]
        sittings = {latency.get("sitting") if latency else None for latency in known}
        if not any(known) or (len(sittings) == 1 and None not in sittings):
            return
        session.progress.start("measuring all latencies side by side", 1)
        time_networks(session.task.arch, networks, session.compute, session.progress)


@dataclass(frozen=True)
class Measured:
    """One network of a comparison. sizes: the budgets at which it was proposed, in words."""

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
    """Time all trained networks of the comparison `name` side by side, and store the latencies.

    They replace latencies under the same conditions (device, threads, precision, batch size,
    version of torch). Others stay.

    Args:
        given: the name of the architecture, if the user gave one (`stored_architecture`).
        batch_sizes: images per pass; each size is measured.

    Raises:
        NsoptError: if nothing is stored.
    """
    if not workspace.has_storage:
        raise NsoptError(f"nothing is stored at {hide_password(workspace.url)}: run a study first")
    name = name or only_comparison(workspace.storage)
    trained = _find_trained(workspace.storage, name)
    if not trained:
        raise NsoptError(
            f"no completed trial of {name} at {hide_password(workspace.url)}: nothing to time"
        )
    arch = read_architecture(schema.read_task(trained[0].network[0]), (), given)
    networks = [each.network for each in trained]
    found = []
    with sharing(resolve_compute(device, "fp32"), progress) as compute:
        progress.start("measuring latency", len(batch_sizes))
        for batch_size in batch_sizes:
            with compute.exclusive():
                if threads is not None:
                    torch.set_num_threads(threads)
                latencies = time_networks(arch, networks, compute, progress, batch_size)
            for each in trained:
                widths = each.network[1]
                found.append(Measured(each.method, each.sizes, widths, latencies[widths]))
            progress.advance()
    return found


def _read_latencies(
    session: Session, conditions: dict[str, object]
) -> dict[tuple[int, ...], Latency]:
    """Return the stored latencies of a comparison under these conditions, by widths."""
    known = {}
    for study in session.studies().values():
        for found in schema.read_latencies(study):
            if conditions.items() <= found.items():
                widths = tuple(int(width) for width in found.pop("widths").split("-"))
                known[widths] = Latency(**found)
    return known


@dataclass(frozen=True, eq=False)
class _Trained:
    """A network that was trained for a method. sizes: see `Measured`."""

    method: str
    network: Network
    sizes: tuple[str, ...]


def _find_trained(storage: BaseStorage, name: str) -> list[_Trained]:
    """Return the networks that a comparison has trained, by method and widths."""
    return [
        _Trained(method, (study, widths), tuple(sizes))
        for method, study in load_studies(storage, name).items()
        if not schema.is_search(method)
        for widths, sizes in _sizes_by_widths(study).items()
    ]


def _sizes_by_widths(study: Study) -> dict[tuple[int, ...], list[str]]:
    """Return the widths that were trained, with their sizes in words."""
    names = schema.read_task(study).layer_names
    found: dict[tuple[int, ...], list[str]] = {}
    for trial in trials.read_completed(study):
        point = trials.read_point(trial)
        if point is not None:
            sizes = found.setdefault(trials.read_widths(trial, names), [])
            label = trials.size_label(point.budget, point.metric, point.ratio)
            if label not in sizes:
                sizes.append(label)
    return found
