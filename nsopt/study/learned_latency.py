"""The latency model of a task: the stored one, or one that is learned now."""

from collections.abc import Sequence
from dataclasses import replace

from nsopt.latency.learn import with_latency
from nsopt.methods.base import Method
from nsopt.progress import Progress
from nsopt.scaling.metric import LATENCY, Metric
from nsopt.study.task import Task, with_stored_latency
from nsopt.study.tuned_law import tuned_law
from nsopt.study.workspace import Workspace


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
    arch = with_stored_latency(task.arch, workspace.studies(task.name).values())
    if arch.latency is None:
        if any(method.needs_tuned_law for method in methods):
            tuned_law(workspace, task.name, metric.name)
        arch = with_latency(arch, task.settings.training.device, progress)
    return replace(task, arch=arch)
