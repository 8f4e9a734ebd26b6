"""The latency model of a task, where its budgets or its prices are milliseconds."""

from collections.abc import Sequence
from dataclasses import replace

from nsopt.compute.device import resolve_compute
from nsopt.experiments.sharing import sharing
from nsopt.experiments.task import Task, with_stored_latency
from nsopt.experiments.workspace import Workspace
from nsopt.latency.learn import latency_model
from nsopt.methods.base import Method
from nsopt.progress import Progress
from nsopt.scaling.metric import LATENCY, Metric


def with_latency_if_needed(
    task: Task, metric: Metric, methods: Sequence[Method], workspace: Workspace, progress: Progress
) -> Task:
    """`task` with a latency model if anything asks for one.

    That of its storage, so that the same budget goes on meaning the same widths; else the one of
    the device here, which is learned now if it is not known.
    """
    prices = {task.settings.search.price, *(method.price for method in methods)}
    if metric != LATENCY and LATENCY.name not in prices:
        return task
    if workspace.has_storage:
        studies = task.stored_studies(workspace.storage).values()
        task = replace(task, arch=with_stored_latency(task.arch, studies))
    if task.arch.latency is not None:
        return task
    with sharing(resolve_compute(task.settings.training.device, "fp32")) as compute:
        model = latency_model(task.arch, compute, progress)
    return replace(task, arch=task.arch.with_latency(model))
