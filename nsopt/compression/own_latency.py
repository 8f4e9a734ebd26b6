"""Milliseconds in a user's task: measured networks keep its budgets, and every network is timed."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from nsopt.compression.budgets import Budget, limits_time
from nsopt.compression.own_task import OwnTask
from nsopt.errors import NsoptError
from nsopt.latency.bisection import Widths
from nsopt.latency.measure import measure_latencies
from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.latency.runtime import with_batch_size
from nsopt.methods.registry import BASELINE
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import LATENCY
from nsopt.settings import batch_unit
from nsopt.study.widths_in_time import Clock


def check_inputs(task: OwnTask, words: Sequence[str]) -> None:
    """Raise NsoptError if a budget limits milliseconds, but inputs are not images."""
    if limits_time(words) and _find_image_batch(task) is None:
        raise NsoptError("budgets in milliseconds need a network of images: give macs or params")


def with_measured_budget(task: OwnTask, budget: Budget, law: PowerLaw) -> OwnTask:
    """Return `task` with a latency model that is corrected by measurements along a law.

    With this model, widths at the budget keep it when they are measured. The task stays the same
    unless the budget limits milliseconds.
    """
    if LATENCY not in budget.metric.parts:
        return task
    arch, study = task.arch, task.open_study(BASELINE.name)
    limits, beside = budget.limits(arch, task.settings), task.runtime.is_here
    asked = MeasuredBudget(arch, law, budget.metric, budget.limit, limits, beside)
    clock = Clock(task.compute, task.runtime, task.progress, study)
    return replace(task, arch=clock.correct(asked, lambda: [study]))


def solve_as_timed(task: OwnTask, budget: Budget, law: PowerLaw) -> Widths:
    """Return the widths along a law at a budget, timed if it limits milliseconds."""
    return budget.solve(law, with_measured_budget(task, budget, law).arch, task.settings)


def time_models(task: OwnTask, models: Sequence[nn.Module]) -> tuple[list[float | None], str]:
    """Return the milliseconds per batch of each network, and their unit.

    If inputs are not images, they are None and "". The batch size is that of budgets in
    milliseconds, or without such budgets that of the user's batches.
    """
    inputs = _find_image_batch(task)
    if inputs is None:
        return [None] * len(models), ""
    runtime = task.runtime
    if task.arch.latency is None:
        runtime = with_batch_size(runtime, len(inputs))
    device = str(task.compute.device)
    with task.compute.exclusive():
        found = measure_latencies(models, inputs.shape[1:], device=device, runtime=runtime)
    return [latency.median_ms for latency in found], batch_unit(runtime.batch_size)


def _find_image_batch(task: OwnTask) -> Tensor | None:
    """Return the first batch of inputs if they are images (B, C, H, W), otherwise None."""
    inputs, _ = task.batches.batches(0, seed=0).next()
    return inputs if isinstance(inputs, Tensor) and inputs.ndim == 4 else None
