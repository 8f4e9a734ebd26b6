"""Comparing methods: one Optuna study each, the same budgets and seeds for all."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

import torch
from optuna.study import Study

from nsopt.data.cache import cache_folder
from nsopt.progress import Progress
from nsopt.pruning.record import Iteration
from nsopt.scaling.curves import uniform_curve
from nsopt.scaling.solve import solve_widths
from nsopt.training.checkpoint import remove_checkpoints
from nsopt.training.device import Compute, nth_device, resolve_compute
from nsopt.training.machine import Machine
from nsopt.training.step import probe_memory
from nsopt.tuning import schema
from nsopt.tuning.artifacts import BestWeights
from nsopt.tuning.methods import MAGNITUDE, descent_iterations, is_ready
from nsopt.tuning.objective import Runner
from nsopt.tuning.processes import local_workers
from nsopt.tuning.request import Comparison
from nsopt.tuning.storage import ARTIFACTS, sqlite_path
from nsopt.tuning.studies import continue_search, existing_studies, missing_points, open_study
from nsopt.tuning.trained import TrainedNetworks
from nsopt.tuning.worker import Worker, curve_sampler

Points = Mapping[str, Sequence[schema.Point]]


def run_comparison(comparison: Comparison, progress: Progress) -> None:
    """Search what the methods need, then train and measure every point that is missing.

    Everything is written to the storage as it ends; calling again continues. Raises NsoptError
    for requests that cannot be met, before anything is written. With other workers, points wait
    in the storage before the search begins, so that they have something to do meanwhile.
    """
    existing = existing_studies(comparison)
    missing = {
        method: missing_points(existing.get(method), _points(comparison, method, progress))
        for method in comparison.methods
    }
    training = comparison.settings.training
    with sharing(resolve_compute(training.device, training.precision)) as compute:
        if any(missing.values()):
            _probe_memory(comparison, compute)
        _run(comparison, existing.get(schema.SEARCH), missing, compute, progress)
    remove_checkpoints(comparison.checkpoints)


def _run(
    comparison: Comparison,
    stored_search: Study | None,
    missing: Points,
    compute: Compute,
    progress: Progress,
) -> None:
    splits = comparison.splits.to(compute.device)
    networks = TrainedNetworks(comparison.arch, splits, compute, comparison.checkpoints)
    runner = Runner(
        comparison.arch,
        splits,
        compute,
        comparison.settings,
        networks,
        comparison.checkpoints,
        BestWeights(comparison.arch, comparison.checkpoints.parent / ARTIFACTS),
        progress,
    )
    shared = comparison.workers > 1 or sqlite_path(comparison.storage) is None
    if shared:
        _enqueue(comparison, missing, [], runner)
    with _other_workers(comparison, compute, progress):
        history = continue_search(comparison, stored_search, progress, compute.machine)
        _check_curves(comparison, missing, history)
        if not shared:
            _enqueue(comparison, missing, history, runner)
        Worker(comparison.opened_storage, comparison.prefix, runner).work()


@contextmanager
def sharing(compute: Compute) -> Iterator[Compute]:
    """`compute`, shared with other processes of this machine."""
    with closing(Machine(cache_folder() / "machines", str(compute.device))) as machine:
        yield dataclasses.replace(compute, machine=machine)


@contextmanager
def _other_workers(comparison: Comparison, compute: Compute, progress: Progress) -> Iterator[None]:
    """The workers beside this process, with an equal share of the cores each."""
    if comparison.workers == 1:
        yield
        return
    threads = max(1, torch.get_num_threads() // comparison.workers)
    torch.set_num_threads(threads)
    same = [
        f"--study={comparison.prefix}",
        f"--data-dir={comparison.data_dir}",
        f"--out={comparison.checkpoints.parent}",
        f"--threads={threads}",
        f"--parent={os.getpid()}",
    ]
    options = [
        [*same, f"--device={nth_device(compute.device, number)}"]
        for number in range(1, comparison.workers)
    ]
    with local_workers(options, comparison.storage, progress):
        yield


def _points(comparison: Comparison, method: str, progress: Progress) -> list[schema.Point]:
    """The points of a method; of magnitude, those below the base network, which it prunes."""
    points = comparison.points(method)
    if method != MAGNITUDE:
        return points
    base = comparison.arch.cost(comparison.metric)(comparison.arch.base_widths)
    above = sorted({point.budget for point in points if point.budget >= base})
    if above:
        budgets = ", ".join(f"{budget:,}" for budget in above)
        progress.message(
            f"magnitude prunes a network of {base:,} {comparison.metric}: left out at {budgets}"
        )
    return [point for point in points if point.budget < base]


def _probe_memory(comparison: Comparison, compute: Compute) -> None:
    arch, settings = comparison.arch, comparison.settings
    searching = descent_iterations(comparison.methods, settings) > 0
    if searching or MAGNITUDE in comparison.methods:
        batch = settings.search.batch_size if searching else settings.training.batch_size
        probe_memory(arch, arch.base_widths, batch, compute)
    curve, cost = uniform_curve(arch.base_widths), arch.cost(comparison.metric)
    largest = solve_widths(curve, cost, max(size.budget for size in comparison.sizes)).widths
    probe_memory(arch, largest.tolist(), settings.training.batch_size, compute)


def _check_curves(comparison: Comparison, missing: Points, history: Sequence[Iteration]) -> None:
    """NsoptError for a method that can propose no widths at one of its budgets."""
    for method, points in missing.items():
        if method != MAGNITUDE:
            _proposals(comparison, method, points, history)


def _proposals(
    comparison: Comparison,
    method: str,
    points: Sequence[schema.Point],
    history: Sequence[Iteration],
) -> list[tuple[int, ...]]:
    """The widths of each point of a method that follows a curve."""
    sampler = curve_sampler(
        method, comparison.arch, comparison.metric, comparison.settings, history
    )
    proposed = {budget: sampler.propose(budget) for budget in {p.budget for p in points}}
    return [proposed[point.budget] for point in points]


def _enqueue(
    comparison: Comparison, missing: Points, history: Sequence[Iteration], runner: Runner
) -> None:
    """Let the missing points wait in their studies.

    First the latencies of those whose widths are known are measured, in one pass.
    """
    studies = {method: open_study(comparison, method) for method in missing}
    known = [
        (studies[method], widths)
        for method, points in missing.items()
        if method != MAGNITUDE and is_ready(method, history, comparison.settings)
        for widths in dict.fromkeys(_proposals(comparison, method, points, history))
    ]
    if known:
        runner.progress.start("measuring latency", len(known))
    for study, widths in known:
        latency = runner.latency(study, widths)
        runner.progress.advance(f"{latency.median_ms:.1f} ms")
    for method, points in missing.items():
        for point in points:
            studies[method].enqueue_trial({}, user_attrs=point.attributes())
