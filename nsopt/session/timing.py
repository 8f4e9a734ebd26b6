"""Milliseconds of a subject: its latency model, budgets that hold as measured, timed networks.

`nsopt.latency.timer` does the work; what it timed is stored.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from optuna.storages import BaseStorage
from optuna.study import Study

from nsopt.compute.device import resolve_compute
from nsopt.errors import NsoptError
from nsopt.latency.budget import MeasuredBudget
from nsopt.latency.record import LARGEST_SPREAD, Latency
from nsopt.latency.runtime import Runtime, stored_runtime, with_batch_size
from nsopt.latency.timer import Timer
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import Metric
from nsopt.scaling.solve import Limits
from nsopt.session.session import Session
from nsopt.session.subject import Subject, list_studies, read_architecture, with_stored_latency
from nsopt.session.workspace import Workspace
from nsopt.settings import BATCH_SIZE
from nsopt.storage import schema, trials
from nsopt.storage.opening import existing_storage
from nsopt.storage.studies import StoredTimings, load_studies, only_comparison
from nsopt.storage.urls import hide_password
from nsopt.tasks.task import Task

Network = tuple[Study, tuple[int, ...]]


def store_timings(session: Session, study: Study) -> Timer:
    """Return a timer whose timings a study stores; it knows those of all studies."""
    store = StoredTimings(study, lambda: session.studies().values())
    return replace(session.timer, store=store)


def with_latency_if_needed(
    subject: Subject, is_timed: bool, workspace: Workspace, progress: Progress
) -> Subject:
    """Return `subject` with a latency model, if a budget is in milliseconds.

    A stored model has priority, so that budgets keep their meaning. Otherwise it is learned now.
    """
    if not is_timed:
        return subject
    studies = list_studies(subject, workspace)
    arch = with_stored_latency(subject.arch, studies, subject.settings.timed)
    if arch.latency is None:
        compute = resolve_compute(subject.settings.training.device, "fp32")
        arch = Timer(compute, subject.runtime, progress, subject.inputs).learn(arch)
    return replace(subject, arch=arch)


def correct_latency(
    session: Session, study: Study, law: ScalingLaw, metric: Metric, budget: float, limits: Limits
) -> Architecture:
    """Return the network with a latency model by which the solver keeps a budget as measured.

    The widths at this budget are found once, by at most eight timed networks, whatever machine or
    process needs them. No network is timed again under the same conditions. Raises NoWidthsError if
    no network that was timed is within the budget.
    """
    subject = session.subject
    if not metric.is_timed:
        return subject.arch
    wanted = MeasuredBudget(subject.arch, law, metric, budget, limits)
    return wanted.keeping(store_timings(session, study).find(wanted))


def find_latencies(session: Session, networks: Sequence[Network]) -> list[Latency]:
    """Return the latencies of networks on this device; those that are not known are timed.

    A network has one latency, whichever methods propose it.
    """
    if not networks:
        return []
    arch, known = session.subject.arch, store_timings(session, networks[0][0]).read()
    return [
        known.get(tuple(widths)) or store_timings(session, study).time(arch, widths)
        for study, widths in networks
    ]


def time_unsure(session: Session) -> None:
    """Time networks of a comparison again whose rounds differed much while workers computed."""
    arch, again = session.subject.arch, set[tuple[int, ...]]()
    for trained in _find_trained(session.workspace.storage, session.subject.name):
        timer = store_timings(session, trained.study)
        known = timer.read().get(trained.widths)
        is_wide = known is not None and (known.spread or 0.0) > LARGEST_SPREAD
        if is_wide and trained.widths not in {*again, arch.base_widths}:
            again.add(trained.widths)
            timer.time(arch, trained.widths, again=True)


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
    """Time all trained networks of a comparison again, and store the latencies.

    They replace those under the same conditions (device, threads, precision, batch size, version of
    torch). Arguments are the options of `nsopt latency`. Raises NsoptError if nothing is stored.
    """
    storage = existing_storage(url)
    name = name or only_comparison(storage)
    trained = _find_trained(storage, name)
    if not trained:
        raise NsoptError(
            f"no completed trial of {name} at {hide_password(url)}: run its command first"
        )
    study = trained[0].study
    arch = read_architecture(schema.read_task(study), arch_name, task)
    inputs = None if task is None else task.inputs
    settings = schema.read_settings(study)
    if runtime is None:
        runtime = stored_runtime(settings["runtime"], None)
    batch_sizes = batch_sizes or sorted({1, BATCH_SIZE, settings["latency_batch_size"]})
    measured = []
    if threads is not None:
        torch.set_num_threads(threads)
    compute = resolve_compute(device, "fp32")
    progress.start("measuring latency", len(batch_sizes) * len(trained))
    for batch_size in batch_sizes:
        timer = Timer(compute, with_batch_size(runtime, batch_size), progress, inputs)
        timer = replace(timer, store=StoredTimings(study))
        timer.time(arch, arch.base_widths, again=True)
        known = {}
        for network in trained:
            if network.widths not in known:
                is_whole = network.widths == arch.base_widths
                known[network.widths] = timer.time(arch, network.widths, again=not is_whole)
            measured.append((network, known[network.widths]))
            progress.advance()
    return measured


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
