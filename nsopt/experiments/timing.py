"""The latency model of a network or of a task, learned while other processes wait."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from nsopt.compute.device import resolve_compute
from nsopt.experiments.sharing import sharing
from nsopt.experiments.task import Task, with_stored_latency
from nsopt.experiments.tuned_law import tuned_law
from nsopt.experiments.workspace import Workspace
from nsopt.latency.learn import latency_model
from nsopt.methods.base import Method
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress, Silent
from nsopt.scaling.metric import LATENCY, Metric
from nsopt.storage.studies import load_studies

A = TypeVar("A", bound=Architecture)


def with_latency_if_needed(
    task: Task, metric: Metric, methods: Sequence[Method], workspace: Workspace, progress: Progress
) -> Task:
    """`task` with a latency model if anything asks for one.

    That of its storage, so that the same budget goes on meaning the same widths; else the one of
    the device here, which is learned now if it is not known. NoWidthsError before that for a method
    whose law is yet to be tuned.
    """
    prices = {task.settings.search.price, *(method.price for method in methods)}
    if metric != LATENCY and LATENCY.name not in prices:
        return task
    if workspace.has_storage:
        studies = load_studies(workspace.storage, task.name).values()
        task = replace(task, arch=with_stored_latency(task.arch, studies))
    if task.arch.latency is not None:
        return task
    if any(method.needs_tuned_law for method in methods):
        tuned_law(workspace, task.name, metric.name)
    arch = with_latency(task.arch, task.settings.training.device, progress)
    return replace(task, arch=arch)


def with_latency(arch: A, device: str = "auto", progress: Progress | None = None) -> A:
    """`arch` with `cost("latency")`: milliseconds for a batch of 100 on a device of this machine.

    The model is learned from kernels and a few whole networks, which takes one to three minutes
    while other nsopt processes on the device wait, and kept in the cache folder by network, device,
    threads and versions.
    """
    with sharing(resolve_compute(device, "fp32")) as compute:
        return arch.with_latency(latency_model(arch, compute, progress or Silent()))
