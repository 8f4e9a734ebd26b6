"""Time the networks of a comparison side by side, on this device or another."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from optuna.storages import BaseStorage
from optuna.study import Study

from nsopt.compute.device import Compute, resolve_compute, sharing
from nsopt.errors import NsoptError
from nsopt.latency.measure import latency_conditions, measure_latencies
from nsopt.latency.runtime import Runtime, choose_inputs, stored_runtime, with_batch_size
from nsopt.latency.sittings import Latency, choose_latencies
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.progress import Progress
from nsopt.session.session import Session
from nsopt.session.subject import read_architecture
from nsopt.settings import BATCH_SIZE
from nsopt.storage import schema, trials
from nsopt.storage.opening import existing_storage
from nsopt.storage.studies import load_studies, only_comparison
from nsopt.storage.urls import hide_password
from nsopt.tasks.task import Task

_WARMUP, _REPEATS, _ROUNDS = 20, 80, 5  # passes of the paper (section 4.2), over all rounds
Network = tuple[Study, tuple[int, ...]]


def time_networks(
    arch: Architecture,
    networks: Sequence[Network],
    compute: Compute,
    runtime: Runtime,
    inputs: Any = None,
) -> dict[tuple[int, ...], Latency]:
    """Time networks side by side, equal ones once; store each latency, and return all by widths."""
    different = list(dict.fromkeys(widths for _, widths in networks))
    models = [build_to_fill(arch, widths) for widths in different]
    batch, passes = choose_inputs(arch, runtime, inputs), (_WARMUP, _REPEATS, _ROUNDS)
    measured = measure_latencies(models, batch, *passes, compute, runtime)
    latencies = {
        widths: replace(latency, widths=widths)
        for widths, latency in zip(different, measured, strict=True)
    }
    for study, widths in networks:
        schema.write_latency(study, latencies[widths])
    return latencies


def find_latencies(session: Session, networks: Sequence[Network]) -> list[Latency]:
    """Return the latencies of networks on this device. If one is missing, time all of them side by
    side.

    A network has one latency, whichever methods propose it: a latency in one study of the
    comparison also counts for the others.
    """
    known, subject = _read_latencies(session), session.subject
    if any(widths not in known for _, widths in networks):
        session.progress.start("measuring latency", 1)
        time_networks(subject.arch, networks, session.compute, subject.runtime, subject.inputs)
        known = _read_latencies(session)
    for study, widths in networks:
        schema.write_latency(study, known[widths])
    return [known[widths] for _, widths in networks]


def time_together(session: Session) -> None:
    """Time all trained networks of a comparison side by side, unless one sitting timed all.

    Latencies from different times cannot be compared. Nothing happens if none was timed on this
    device.
    """
    trained = _find_trained(session.workspace.storage, session.subject.name)
    networks = [(network.study, network.widths) for network in trained]
    known = _read_latencies(session, [widths for _, widths in networks])
    latencies = [known.get(widths) for _, widths in networks]
    sittings = {latency.sitting if latency else None for latency in latencies}
    if any(latencies) and (len(sittings) > 1 or None in sittings):
        session.progress.start("measuring all latencies side by side", 1)
        subject = session.subject
        time_networks(subject.arch, networks, session.compute, subject.runtime, subject.inputs)


class Trained(NamedTuple):
    """A network that was trained for a method.

    Attributes:
        study: of the method.
        sizes: the budgets at which its widths were proposed, in words.
    """

    method: str
    study: Study
    widths: tuple[int, ...]
    sizes: tuple[str, ...]


def measure_again(
    url: str,
    progress: Progress,
    *,
    batch_sizes: Sequence[int] | None = None,
    name: str | None = None,
    arch_name: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    runtime: Runtime | None = None,
    task: Task | None = None,
) -> list[tuple[Trained, Latency]]:
    """Time all trained networks of a comparison side by side, and store the latencies.

    Of several sittings under the same conditions (device, threads, precision, batch size, version
    of torch), the calmest counts (`choose_latencies`).

    Args:
        batch_sizes: images per pass; each size is measured. By default 1, 100 and that of the
            study.
        name: ARCH-DATA-PRESET; None for the only one in the storage.
        arch_name: the name of the architecture, if the user gave one (`stored_architecture`).
        threads: number of CPU threads; None for torch's own.
        runtime: what times them; by default that of the study.
        task: the task, if it is not of images.

    Raises:
        NsoptError: if nothing is stored.
    """
    storage = existing_storage(url)
    name = name or only_comparison(storage)
    trained = _find_trained(storage, name)
    if not trained:
        raise NsoptError(f"no completed trial of {name} at {hide_password(url)}: nothing to time")
    study = trained[0].study
    arch = read_architecture(schema.read_task(study), arch_name, task)
    inputs = None if task is None else task.inputs
    networks = [(network.study, network.widths) for network in trained]
    settings = schema.read_settings(study)
    if runtime is None:
        runtime = stored_runtime(settings["runtime"], None)
    batch_sizes = batch_sizes or sorted({1, BATCH_SIZE, settings["latency_batch_size"]})
    measured = []
    if threads is not None:
        torch.set_num_threads(threads)  # before `sharing`, which measures with this number
    with sharing(resolve_compute(device, "fp32"), progress) as compute:
        progress.start("measuring latency", len(batch_sizes))
        for batch_size in batch_sizes:
            sized = with_batch_size(runtime, batch_size)
            latencies = time_networks(arch, networks, compute, sized, inputs)
            measured += [(network, latencies[network.widths]) for network in trained]
            progress.advance()
    return measured


def _read_latencies(
    session: Session, networks: Collection[tuple[int, ...]] = ()
) -> dict[tuple[int, ...], Latency]:
    """Return the latencies of a comparison that count on this device, by widths.

    Args:
        networks: those that a complete sitting has timed; by default all that were timed.
    """
    with session.compute.all_threads():
        conditions = latency_conditions(session.compute.device, session.subject.runtime)
    stored = [
        latency
        for study in session.studies().values()
        for latency in map(asdict, schema.read_latencies(study))
        if conditions.items() <= latency.items()
    ]
    chosen = choose_latencies(stored, networks)
    return {widths: Latency(**latency) for widths, latency in chosen.items()}


def _find_trained(storage: BaseStorage, name: str) -> list[Trained]:
    """Return the networks that a comparison has trained, by method and widths."""
    trained = list[Trained]()
    for method, study in load_studies(storage, name).items():
        if schema.is_search(method):
            continue
        names, sizes = schema.read_task(study).layer_names, dict[tuple[int, ...], list[str]]()
        for trial in trials.read_completed(study):
            point = trials.read_point(trial)
            if point is not None:
                sizes.setdefault(trials.read_widths(trial, names), []).append(point.size)
        trained += [
            Trained(method, study, widths, tuple(dict.fromkeys(labels)))
            for widths, labels in sizes.items()
        ]
    return trained
