"""How long a comparison takes: a few steps timed on uniform networks, searches on the whole one."""

import math
from functools import cache

from nsopt.compute.memory import peak_memory
from nsopt.data.images import ImageData
from nsopt.errors import NoWidthsError
from nsopt.models.architecture import Architecture
from nsopt.pruning.engine import PruneSchedule
from nsopt.pruning.iterations import is_complete
from nsopt.pruning.rules import make_rule
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.solve import solve_widths
from nsopt.storage import trials
from nsopt.storage.trials import Point
from nsopt.study.plan import Plan, Points
from nsopt.training.step import time_step


def tell_progress(plan: Plan, missing: Points) -> None:
    """Say how many points of a comparison are missing, and how long they take."""
    left, total = (sum(map(len, each.values())) for each in (missing, plan.points))
    plan.session.progress.overall(total - left, total)
    if left:
        tell_duration(plan, missing)


def tell_duration(plan: Plan, missing: Points) -> None:
    """Say how long searches and missing points take; nsopt cannot tell for tasks of users."""
    search, training = estimate(plan, missing)
    if search + training:
        part = f" ({_format_duration(search)} of it the search)" if search else ""
        whole = f"{_format_duration(search + training)} here{part}, more where widths compute more"
        memory = f"{peak_memory(plan.session.compute.device) / 2**30:.1f} GB of memory"
        plan.session.progress.message(f"takes about {whole} than uniform ones, and {memory}")


def estimate(plan: Plan, missing: Points) -> tuple[float, float]:
    """Return the seconds of the missing searches and trainings. Raises OutOfMemoryError."""
    session, subject, search = plan.session, plan.session.subject, 0.0
    if not isinstance(subject.data, ImageData):
        return 0.0, 0.0
    arch, settings, images = subject.arch, subject.settings, len(subject.splits.train)
    time = cache(lambda widths, batch: time_step(arch, widths, batch, session.compute))
    for price, iterations in plan.comparison.searches.items():
        own = settings.search.updated(price=price, iterations=iterations)
        study = session.studies().get(subject.search_kind(price))
        history = trials.read_iterations(study) if study else []
        if not is_complete(history, own):
            epoch = len(subject.splits.with_train_images(own.search_images).train) / own.batch_size
            steps = make_rule(arch, arch.base_widths, own).steps
            batches = PruneSchedule(steps, math.ceil(epoch), own).batches
            search += (iterations - len(history)) * batches * time(arch.base_widths, own.batch_size)
    work = []
    for method, points in missing.items():
        training = settings.fine_tuning_for if method.inherits_weights else settings.training_for
        if not method.keeps_weights:
            work += [(training(point.seed), _solve_uniform(arch, point)) for point in points]
        for seed in {p.seed for p in points if method.needs_trained_network and not subject.start}:
            work.append((settings.base_training_for(seed), arch.base_widths))
    took = [s.epochs * math.ceil(images / s.batch_size) * time(w, s.batch_size) for s, w in work]
    return search, sum(took)


def _solve_uniform(arch: Architecture, point: Point) -> tuple[int, ...]:
    """Return uniform widths; the narrowest where only measured milliseconds allow any."""
    law, cost = uniform_curve(arch.base_widths), point.metric.cost(arch)
    try:
        return tuple(solve_widths(law, cost, point.budget).widths.tolist())
    except NoWidthsError:
        return (1,) * len(arch.base_widths)


def _format_duration(seconds: float) -> str:
    for length, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{max(1, round(seconds))} s"
