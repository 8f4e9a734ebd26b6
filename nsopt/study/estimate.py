"""Estimate how long a comparison takes here, from the time of a few training steps."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nsopt.compute.memory import peak_memory
from nsopt.data.images import ImageData
from nsopt.errors import NoWidthsError
from nsopt.latency.bisection import Widths
from nsopt.methods.base import Method
from nsopt.methods.registry import BASELINE
from nsopt.models.architecture import Architecture
from nsopt.pruning.engine import PruneSchedule
from nsopt.pruning.iterations import is_complete
from nsopt.pruning.rules import make_rule
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.cost import width_limits
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import MACS, PARAMS, Metric
from nsopt.scaling.solve import solve_widths
from nsopt.storage import trials
from nsopt.storage.trials import Point
from nsopt.study.plan import Plan, Points
from nsopt.training.settings import TrainSettings
from nsopt.training.step import time_step

_MORE_MACS = 4.0  # of searched widths than of uniform ones with as many parameters: studies/
_EVALUATION = 1 / 3  # of a training step, per image
_PASSES = 200  # when a network is timed, alone and beside all others
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

_Budget = tuple[Metric, float]


@dataclass(frozen=True)
class Estimate:
    """What the missing part of a comparison takes on this device.

    Attributes:
        search: seconds of the searches.
        training: seconds of everything else, if all networks compute as much as uniform ones.
        most: the same, if searched widths compute several times as much.
        memory: bytes.
    """

    search: float
    training: float
    most: float
    memory: int

    def __str__(self) -> str:
        low, high = (_format_duration(self.search + rest) for rest in (self.training, self.most))
        whole = low if low == high else f"{low} to {high}"
        search = f" ({_format_duration(self.search)} of it the search)" if self.search else ""
        return f"takes about {whole} here{search} and {self.memory / 2**30:.1f} GB of memory"


@dataclass(frozen=True)
class _Work:
    """Training steps of one network.

    Attributes:
        steps: number of steps.
        batch: images per step.
        macs: of a forward pass of one image, if the network computes as much as a uniform one.
        more: the factor by which searched widths may compute more.
    """

    steps: float
    batch: int
    macs: float
    more: float = 1.0


def tell_progress(plan: Plan, missing: Points) -> None:
    """Say how many points of a comparison are missing, and how long they take."""
    progress, total = plan.session.progress, sum(len(points) for points in plan.points.values())
    left = sum(len(points) for points in missing.values())
    progress.overall(total - left, total)
    if left:
        tell_duration(plan, missing)


def tell_duration(plan: Plan, missing: Points) -> None:
    """Say how long searches and missing points take, and what would shorten them.

    nsopt cannot tell for a task of the user.
    """
    if not isinstance(plan.session.task.data, ImageData):
        return
    found = estimate(plan, missing)
    if found.search + found.training:
        plan.session.progress.message(str(found))
        plan.session.progress.message(advise(plan))


def estimate(plan: Plan, missing: Points) -> Estimate:
    """Time a few training steps at several sizes; return what searches and missing points take.

    Raises:
        OutOfMemoryError: if the largest network that is trained or searched does not fit.
    """
    uniform = _solve_uniform(plan)
    seconds = _time_steps(plan, uniform.values())
    search = sum(seconds(work, 1.0) for work in _estimate_searches(plan))
    trainings = list(_estimate_trainings(plan, missing, uniform))
    least = sum(seconds(work, 1.0) for work in trainings)
    most = sum(seconds(work, work.more) for work in trainings)
    return Estimate(search, least, most, peak_memory(plan.session.compute.device))


def advise(plan: Plan) -> str:
    """Return the options that make a comparison shorter."""
    comparison, epochs = plan.comparison, plan.session.task.settings.training.epochs
    compresses = any(method.needs_scored_law for method in comparison.methods)
    sizes = "fewer --budgets" if compresses else "fewer --ratios or --budgets"
    options = {
        "fewer --methods": len(comparison.methods) > 1 and not compresses,
        sizes: len(comparison.sizes) > 1,
        f"--seeds {comparison.seeds - 1}": comparison.seeds > 1,
        f"--epochs {epochs // 2}": epochs > 1,
        "--per-class for fewer images": True,
    }
    return f"for less time: {', '.join(option for option, helps in options.items() if helps)}"


def _time_steps(plan: Plan, uniform: Iterable[Widths]) -> Callable[[_Work, float], float]:
    """Time a step at the largest and the smallest size; return a function that gives seconds.

    The function takes work, and the factor by which to multiply its MACs. It assumes that a step
    takes a constant time, and a time proportional to its MACs.

    Args:
        plan: the comparison.
        uniform: widths of the uniform networks at all budgets.
    """
    comparison, session = plan.comparison, plan.session
    arch, settings = session.task.arch, session.task.settings
    searching = bool(comparison.searches)
    batch = settings.training.batch_size
    cases = [(widths, batch) for widths in uniform]
    if searching or any(method.needs_trained_network for method in comparison.methods):
        cases.append((arch.base_widths, settings.search.batch_size if searching else batch))
    load = {case: MACS.cost(arch)(case[0]) * case[1] for case in cases}
    low, high = min(load, key=load.__getitem__), max(load, key=load.__getitem__)
    took = {case: time_step(arch, *case, session.compute) for case in {low: None, high: None}}
    per_mac = took[high] / load[high]
    if load[high] > load[low]:
        per_mac = max(0.0, (took[high] - took[low]) / (load[high] - load[low]))
    constant = max(0.0, took[low] - per_mac * load[low])
    return lambda work, more: work.steps * (constant + per_mac * work.batch * work.macs * more)


def _estimate_searches(plan: Plan) -> Iterator[_Work]:
    """Yield the work of the searches that are not stored."""
    task, stored = plan.session.task, plan.session.studies()
    for price, iterations in plan.comparison.searches.items():
        settings = task.settings.search.updated(price=price, iterations=iterations)
        study = stored.get(task.search_kind(price))
        history = trials.read_iterations(study) if study else []
        if not is_complete(history, settings):
            images = len(task.splits.with_train_images(settings.search_images).train)
            for _ in range(iterations - len(history)):
                yield from _estimate_iteration(task.arch, images, settings)


def _estimate_iteration(
    arch: Architecture, images: int, settings: SearchSettings
) -> Iterator[_Work]:
    """Yield the work of pre-training and of pruning."""
    batch, macs = settings.batch_size, float(MACS.cost(arch)(arch.base_widths))
    rule = make_rule(arch, arch.base_widths, settings)
    schedule = PruneSchedule(rule.steps, math.ceil(images / batch), settings)
    yield _Work(schedule.pretraining, batch, macs)
    by_number = settings.price == "filters" and isinstance(settings.filters_per_step, int)
    space = np.linspace if by_number else np.geomspace
    left = space(1.0, settings.keep_fraction, rule.steps)
    yield _Work(schedule.batches - schedule.pretraining, batch, macs * float((left**2).mean()))


def _estimate_trainings(
    plan: Plan, missing: Points, uniform: Mapping[_Budget, Widths]
) -> Iterator[_Work]:
    """Yield the work of the missing trainings and of timing their networks."""
    comparison, task = plan.comparison, plan.session.task
    arch, settings = task.arch, task.settings
    cost = MACS.cost(arch)
    base = float(cost(arch.base_widths))
    macs_at = {budget: float(cost(widths)) for budget, widths in uniform.items()}
    for method, points in missing.items():
        if method.keeps_weights:
            continue
        if method.needs_trained_network and task.start is None:
            for seed in {point.seed for point in points}:
                yield _estimate_training(plan, settings.base_training_for(seed), base)
        is_uniform = method.name == BASELINE.name
        for point in points:
            macs = macs_at[point.metric, point.budget]
            more = 1.0 if is_uniform or point.metric != PARAMS else _MORE_MACS
            yield _estimate_training(plan, _get_settings(plan, method, point), macs, more)
            yield _estimate_timing(plan, macs, more)
    if plan.has_references:
        macs, more = max(macs_at.values()), (1 + _MORE_MACS) / 2
        for _ in range(comparison.references * comparison.seeds):
            yield _estimate_training(plan, settings.training, macs, more)
            yield _estimate_timing(plan, macs, more)


def _get_settings(plan: Plan, method: Method, point: Point) -> TrainSettings:
    settings = plan.session.task.settings
    if method.inherits_weights:
        return settings.fine_tuning_for(point.seed)
    return settings.training_for(point.seed)


def _estimate_training(
    plan: Plan, settings: TrainSettings, macs: float, more: float = 1.0
) -> _Work:
    """Return the work of one training with its evaluations."""
    splits, batch = plan.session.task.splits, settings.batch_size
    evaluated = (len(splits.validation) + len(splits.test)) / batch
    steps = math.ceil(len(splits.train) / batch) + _EVALUATION * evaluated
    return _Work(settings.epochs * steps, batch, macs, more)


def _estimate_timing(plan: Plan, macs: float, more: float) -> _Work:
    """Return one seed's part of the work of timing a network."""
    batch = plan.session.task.settings.latency_batch_size
    return _Work(_EVALUATION * _PASSES / plan.comparison.seeds, batch, macs, more)


def _solve_uniform(plan: Plan) -> dict[_Budget, Widths]:
    """Return the widths of the uniform network at each budget.

    Where predicted milliseconds allow no widths, measured ones may: these are the narrowest.
    """
    arch = plan.session.task.arch
    curve = uniform_curve(arch.base_widths)
    found = {}
    for size in plan.comparison.sizes:
        cost = size.metric.cost(arch)
        try:
            widths = solve_widths(curve, cost, size.budget).widths.tolist()
        except NoWidthsError:
            widths = width_limits(cost, len(arch.base_widths))[0].astype(int).tolist()
        found[size.metric, size.budget] = tuple(widths)
    return found


def _format_duration(seconds: float) -> str:
    """Format a duration in one unit."""
    if seconds < 1.5 * _MINUTE:
        return f"{max(1, round(seconds)):d} s"
    if seconds < 1.5 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        return f"{seconds / _HOUR:.1f} h"
    return f"{seconds / _DAY:.0f} days"
