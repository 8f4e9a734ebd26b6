"""Milliseconds in a user's task: measured networks keep its budgets, and every network is timed."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from nsopt.compression.budgets import Budget
from nsopt.compression.own_task import OwnTask
from nsopt.latency.bisection import Widths
from nsopt.latency.measure import measure_latencies
from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.methods.registry import BASELINE
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import LATENCY
from nsopt.settings import batch_unit
from nsopt.study.widths_in_time import Clock


def with_measured_budget(task: OwnTask, budget: Budget, law: PowerLaw) -> OwnTask:
    """Return `task` with a latency model that is corrected by measurements along a law.

    With this model, widths at the budget keep it when they are measured. The task stays the same
    unless the budget limits milliseconds.
    """
    if LATENCY not in budget.metric.parts:
        return task
    arch, study = task.arch, task.open_study(BASELINE.name)
    limits, beside = budget.limits(arch, task.settings), task.runtime.is_here
    asked = MeasuredBudget(arch, law, budget.metric, budget.limit, limits, beside, task.inputs)
    clock = Clock(task.compute, task.runtime, task.progress, study)
    return replace(task, arch=clock.correct(asked, lambda: [study]))


def solve_as_timed(task: OwnTask, budget: Budget, law: PowerLaw) -> Widths:
    """Return the widths along a law at a budget, timed if it limits milliseconds."""
    return budget.solve(law, with_measured_budget(task, budget, law).arch, task.settings)


def time_models(task: OwnTask, models: Sequence[nn.Module]) -> tuple[list[float], str]:
    """Return the milliseconds per batch of each network, and their unit."""
    device = str(task.compute.device)
    with task.compute.exclusive():
        found = measure_latencies(models, task.inputs, device=device, runtime=task.runtime)
    return [latency.median_ms for latency in found], batch_unit(task.runtime.batch_size)
