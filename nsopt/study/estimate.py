"""How long a comparison takes: a few steps timed on uniform networks, searches on the whole one."""

from nsopt.compute.memory import peak_memory
from nsopt.errors import NoWidthsError
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.solve import solve_widths
from nsopt.session.durations import Durations, format_duration
from nsopt.storage.trials import Point
from nsopt.study.plan import Plan, Points


def tell_duration(plan: Plan, missing: Points) -> None:
    """Say how long searches and missing points take."""
    search, training = estimate(plan, missing)
    if search + training:
        part = f" ({format_duration(search)} of it the search)" if search else ""
        whole = f"{format_duration(search + training)} here{part}, more where widths compute more"
        memory = f"{peak_memory(plan.session.compute.device) / 2**30:.1f} GB of memory"
        plan.session.progress.message(f"takes about {whole} than uniform ones, and {memory}")


def estimate(plan: Plan, missing: Points) -> tuple[float, float]:
    """Return the seconds of the missing searches and trainings. Raises OutOfMemoryError."""
    subject, durations = plan.session.subject, Durations(plan.session)
    arch, settings = subject.arch, subject.settings
    search = sum(
        durations.estimate_search(price, iterations)
        for price, iterations in plan.comparison.searches.items()
    )
    work = []
    for method, points in missing.items():
        training = settings.fine_tuning_for if method.inherits_weights else settings.training_for
        if not method.keeps_weights:
            work += [(training(point.seed), _solve_uniform(arch, point)) for point in points]
        for seed in {p.seed for p in points if method.needs_trained_network and not subject.start}:
            work.append((settings.base_training_for(seed), arch.base_widths))
    return search, sum(durations.estimate_training(own, widths) for own, widths in work)


def _solve_uniform(arch: Architecture, point: Point) -> tuple[int, ...]:
    """Return uniform widths; the narrowest where only measured milliseconds allow any."""
    law, cost = uniform_curve(arch.base_widths), point.metric.cost(arch)
    try:
        return tuple(solve_widths(law, cost, point.budget).widths.tolist())
    except NoWidthsError:
        return (1,) * len(arch.base_widths)
