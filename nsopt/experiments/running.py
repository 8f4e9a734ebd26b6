"""Running a comparison: one Optuna study a method, the same budgets and seeds for all."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from nsopt.compute.device import resolve_compute
from nsopt.errors import NoWidthsError
from nsopt.experiments.comparison import (
    Comparison,
    beyond_records,
    missing_points,
    reference_budgets,
    reference_points,
    trained_widths,
)
from nsopt.experiments.latencies import measure_together
from nsopt.experiments.runner import Runner, clear_finished, make_runner
from nsopt.experiments.searching import Histories, continue_searches, stored_searches
from nsopt.experiments.sharing import other_workers, sharing
from nsopt.experiments.task import Task
from nsopt.experiments.tuned_law import tuned_verdict
from nsopt.experiments.worker import Worker, is_ready
from nsopt.experiments.workspace import Workspace
from nsopt.methods.base import Method
from nsopt.methods.registry import baseline, is_method
from nsopt.progress import Progress
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import MACS
from nsopt.scaling.solve import solve_widths
from nsopt.storage import schema, trials
from nsopt.storage.trials import Point
from nsopt.storage.urls import hide_password
from nsopt.training.step import probe_memory

Points = Mapping[Method, Sequence[Point]]


def run_comparison(comparison: Comparison, workspace: Workspace, progress: Progress) -> None:
    """Search what the methods need, then train and measure every point that is missing.

    Everything is written to the storage as it ends; calling again continues. Raises NsoptError
    for requests that cannot be met, before anything is written. With other workers, points wait
    in the storage before the search begins, so that they have something to do meanwhile.
    """
    task = comparison.task
    searches = comparison.searches
    if any(method.needs_tuned_law for method in comparison.methods):
        verdict = tuned_verdict(workspace, task.name, comparison.metric.name)
        progress.message(f"tuned: {verdict}")
    points = {method: _supported(comparison, method, progress) for method in comparison.methods}
    missing = _missing(task, workspace, points)
    total, left = (sum(len(own) for own in each.values()) for each in (points, missing))
    progress.overall(total - left, total)
    with sharing(
        resolve_compute(task.settings.training.device, task.settings.training.precision)
    ) as compute:
        runner = make_runner(task, workspace, compute, progress)
        if any(missing.values()):
            _probe_memory(comparison, bool(searches), runner)
        if workspace.shared:
            _enqueue(missing, {}, runner)
        with other_workers(task.name, task.arch.name, workspace, compute, progress):
            continue_searches(task, workspace, searches, compute, progress)
            found = stored_searches(task, workspace)
            for sentence in (*beyond_records(comparison, found), *_outdated(points, found, runner)):
                progress.message(sentence)
            if not workspace.shared:
                _check_proposals(missing, found, runner)
                _enqueue(missing, found, runner)
            references = _references(comparison, found, runner)
            if references:
                _enqueue(_missing(task, workspace, references), found, runner)
            points = {m: [*p, *references.get(m, ())] for m, p in points.items()}
            _work(points, found, runner)
            _mend(runner)
        measure_together(task, workspace, compute, progress)
    clear_finished(task, workspace)


def _work(points: Points, found: Histories, runner: Runner) -> None:
    """Run what waits until every point is settled.

    A process that gives a dead one's trial back fails it first and then lets it wait again: who
    looks in between sees nothing waiting, and a point without a trial. It is enqueued once more;
    of two trials with one point only one is run.
    """
    Worker(runner).work()
    while any((lost := _missing(runner.task, runner.workspace, points)).values()):
        _enqueue(lost, found, runner)
        Worker(runner).work()


def _mend(runner: Runner) -> None:
    """Make the networks again that are kept here, and whose files were damaged."""
    for name, study in runner.task.stored_studies(runner.workspace.storage).items():
        if is_method(name):
            runner.mend(study)


def _references(comparison: Comparison, found: Histories, runner: Runner) -> Points:
    """The reference points of a comparison by method, where uniform networks are compared."""
    own = [m for m in comparison.methods if m.name == baseline().name]
    others = [m for m in comparison.methods if not m.needs_trained_network and m not in own]
    if not own or not others or not comparison.references:
        return {}
    task, storage = runner.task, runner.workspace.storage
    networks = []
    for method in (*own, *others):
        with suppress(NoWidthsError):  # its trials fail, and say why
            proposed = _proposals(method, comparison.points(method), found, runner)
            study = task.open_study(storage, method.name, runner.compute)
            networks += [(study, widths) for widths in proposed.values()]
    macs = [MACS.cost(task.arch)(widths) for _, widths in networks]
    asked = [comparison.references, *macs]
    study = task.open_study(storage, own[0].name, runner.compute)
    budgets = schema.read_references(study, asked)
    if budgets is None:
        latencies = [latency.median_ms for latency in runner.latencies(networks)]
        budgets = reference_budgets(comparison, macs, latencies)
        schema.write_references(study, asked, budgets)
    return {own[0]: reference_points(comparison, budgets)}


def _missing(task: Task, workspace: Workspace, points: Points) -> Points:
    """The points that are still to be run; NsoptError if other settings wrote the storage."""
    stored = task.stored_studies(workspace.storage) if workspace.has_storage else {}
    return {method: missing_points(stored.get(method.name), own) for method, own in points.items()}


def _supported(comparison: Comparison, method: Method, progress: Progress) -> list[Point]:
    """The points of a method but for those at which it has nothing to offer."""
    arch, metric = comparison.task.arch, comparison.metric
    points, base = comparison.points(method), metric.cost(arch)(arch.base_widths)
    left_out = sorted({p.budget for p in points if not method.supports(p.budget, base)})
    if left_out:
        budgets = ", ".join(metric.show(budget) for budget in left_out)
        progress.message(
            f"{method.name} starts from a network of {metric.show(base)}: left out at {budgets}"
        )
    return [point for point in points if point.budget not in left_out]


def _probe_memory(comparison: Comparison, searching: bool, runner: Runner) -> None:
    """OutOfMemoryError if the largest network of the comparison, or of its search, does not fit."""
    arch, settings = comparison.task.arch, comparison.task.settings
    if searching or any(method.needs_trained_network for method in comparison.methods):
        batch = settings.search.batch_size if searching else settings.training.batch_size
        probe_memory(arch, arch.base_widths, batch, runner.compute)
    budget = max(size.budget for size in comparison.sizes)
    largest = solve_widths(
        uniform_curve(arch.base_widths), comparison.metric.cost(arch), budget
    ).widths
    probe_memory(arch, largest.tolist(), settings.training.batch_size, runner.compute)


def _check_proposals(missing: Points, found: Histories, runner: Runner) -> None:
    """NsoptError for a method that can propose no widths at one of its budgets."""
    for method, points in missing.items():
        if not method.needs_trained_network:
            _proposals(method, points, found, runner)


def _outdated(points: Points, found: Histories, runner: Runner) -> Iterator[str]:
    """Which methods were trained along a law that has changed since, as a tuned one may."""
    stored = runner.task.stored_studies(runner.workspace.storage)
    for method, own in points.items():
        study = stored.get(method.name)
        if study is None or method.needs_trained_network:
            continue
        trained = trained_widths(study, runner.task.arch.layer_names)
        done = [point for point in own if point in trained]
        with suppress(NoWidthsError):  # its trials fail, and say why
            proposed = _proposals(method, done, found, runner)
            others = [point for point in done if trained[point] != proposed[point.budget]]
            if others:
                url = hide_password(runner.workspace.url)
                yield (
                    f"{method.name}: {len(others)} of {len(own)} points were trained along another "
                    "law, and stay; to train them along the present one, first optuna delete-study "
                    f"--study-name {study.study_name} --storage {url}"
                )


def _proposals(
    method: Method, points: Sequence[Point], found: Histories, runner: Runner
) -> dict[int | float, tuple[int, ...]]:
    """The widths of a method's points by budget, where they do not depend on the seed."""
    samplers = {p.budget: runner.method_sampler(method, p, found) for p in points}
    return {budget: sampler.propose(budget) for budget, sampler in samplers.items()}


def _enqueue(missing: Points, found: Histories, runner: Runner) -> None:
    """Let the missing points wait in their studies.

    First the latencies of those whose widths are known are measured, side by side.
    """
    task, storage = runner.task, runner.workspace.storage
    studies = {m: task.open_study(storage, m.name, runner.compute) for m in missing}
    known = [
        (studies[method], widths)
        for method, points in missing.items()
        if not method.needs_trained_network and is_ready(method, found, task)
        for widths in _proposals(method, points, found, runner).values()
    ]
    if known:
        runner.progress.start("measuring latency", 1)
        runner.latencies(known)
    for method, points in missing.items():
        for point in points:
            trials.enqueue_point(studies[method], point)
