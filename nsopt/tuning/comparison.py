"""Comparing methods: one Optuna study each, the same budgets and seeds for all."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nsopt.errors import NonFiniteLossError
from nsopt.progress import Progress
from nsopt.pruning.record import Iteration
from nsopt.scaling.curves import uniform_curve
from nsopt.scaling.solve import solve_widths
from nsopt.training.checkpoint import remove_checkpoints
from nsopt.training.device import Compute, resolve_compute
from nsopt.training.latency import Latency
from nsopt.training.step import probe_memory
from nsopt.tuning import schema
from nsopt.tuning.latencies import complete_latencies
from nsopt.tuning.methods import (
    MAGNITUDE,
    MagnitudePruning,
    curve_of,
    descent_iterations,
    follows_law,
)
from nsopt.tuning.objective import NothingToRunError, Runner
from nsopt.tuning.request import Comparison
from nsopt.tuning.sampler import NeuralScaleSampler
from nsopt.tuning.storage import open_storage
from nsopt.tuning.studies import continue_search, existing_studies, missing_points, open_study
from nsopt.tuning.trained import TrainedNetworks

_POLL_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class _Plan:
    """What one method runs: points with their widths, and the sampler of its study.

    fixed: whether the widths are enqueued, as they differ from seed to seed, instead of being
    proposed by the sampler; failures: points that cannot run, with the reason.
    """

    widths: Mapping[schema.Point, tuple[int, ...]]
    sampler: BaseSampler
    fixed: bool = False
    failures: Mapping[schema.Point, str] = field(default_factory=dict)


def run_comparison(comparison: Comparison, progress: Progress) -> None:
    """Search what the methods need, then train and measure every point that is missing.

    Everything is written to the storage as it ends; calling again continues. Raises NsoptError
    for requests that cannot be met, before anything is written.
    """
    settings = comparison.settings
    compute = resolve_compute(settings.training.device, settings.training.precision)
    existing = existing_studies(comparison)
    missing = {
        method: missing_points(existing.get(method), _points(comparison, method, progress))
        for method in comparison.methods
    }
    splits = comparison.data.split(settings.training.val_fraction).to(compute.device)
    iterations = descent_iterations(comparison.methods, settings)
    if any(missing.values()):
        _probe_memory(comparison, compute, searching=iterations > 0)
    history = (
        continue_search(comparison, existing.get(schema.SEARCH), iterations, progress)
        if iterations
        else []
    )
    networks = TrainedNetworks(comparison.arch, splits, compute, comparison.checkpoints)
    plans = {
        method: _magnitude_plan(comparison, points, networks, progress)
        if method == MAGNITUDE
        else _curve_plan(comparison, method, points, history)
        for method, points in missing.items()
    }

    storage = open_storage(comparison.storage)
    studies = {
        method: open_study(comparison, storage, method, plan.sampler)
        for method, plan in plans.items()
    }
    needed = {method: list(plan.widths.values()) for method, plan in plans.items()}
    latencies = complete_latencies(studies, needed, comparison.arch, compute, progress)
    for method, plan in plans.items():
        _enqueue(studies[method], plan, comparison.arch.layer_names)
    runner = Runner(
        comparison.arch, splits, compute, settings, networks, comparison.checkpoints, progress
    )
    _run_everything(storage, studies, runner, latencies, progress)
    remove_checkpoints(comparison.checkpoints)


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


def _probe_memory(comparison: Comparison, compute: Compute, searching: bool) -> None:
    arch, settings = comparison.arch, comparison.settings
    if searching or MAGNITUDE in comparison.methods:
        batch = settings.search.batch_size if searching else settings.training.batch_size
        probe_memory(arch, arch.base_widths, batch, compute)
    curve, cost = uniform_curve(arch.base_widths), arch.cost(comparison.metric)
    largest = solve_widths(curve, cost, max(size.budget for size in comparison.sizes)).widths
    probe_memory(arch, largest.tolist(), settings.training.batch_size, compute)


def _curve_plan(
    comparison: Comparison,
    method: str,
    points: Sequence[schema.Point],
    history: Sequence[Iteration],
) -> _Plan:
    curve = curve_of(method, comparison.arch, history)
    eta = comparison.settings.eta if follows_law(method) else None
    cost = comparison.arch.cost(comparison.metric)
    sampler = NeuralScaleSampler(curve, cost, comparison.arch.layer_names, eta=eta)
    return _Plan({point: sampler.propose(point.budget) for point in points}, sampler)


def _magnitude_plan(
    comparison: Comparison,
    points: Sequence[schema.Point],
    networks: TrainedNetworks,
    progress: Progress,
) -> _Plan:
    pruning = MagnitudePruning(comparison.arch, comparison.settings, networks)
    widths, failures = {}, {}
    for point in points:
        try:
            widths[point] = pruning.widths(point, progress)
        except NonFiniteLossError as error:
            failures[point] = str(error)
            progress.message(f"{point.label}: {error}")
    return _Plan(widths, RandomSampler(), fixed=True, failures=failures)


def _enqueue(study: Study, plan: _Plan, layer_names: Sequence[str]) -> None:
    names = [schema.width_parameter(name) for name in layer_names]
    for point, widths in plan.widths.items():
        fixed = dict(zip(names, widths, strict=True)) if plan.fixed else {}
        study.enqueue_trial(fixed, user_attrs=point.attributes())
    for point, reason in plan.failures.items():
        study.add_trial(schema.failed_trial(point, reason))


def _run_everything(
    storage: RDBStorage,
    studies: Mapping[str, Study],
    runner: Runner,
    latencies: dict[str, Latency],
    progress: Progress,
) -> None:
    """Run what waits, and wait for what other processes run (or ran, until they died).

    A process may die between taking a trial and its first heartbeat, and a trial without one
    never counts as stale: the first look at a running trial gives it one.
    """
    seen: set[int] = set()
    while unfinished := [trial for study in studies.values() for trial in _unfinished(study)]:
        running = {t._trial_id for t in unfinished if t.state == TrialState.RUNNING}
        for trial_id in running - seen:
            storage.record_heartbeat(trial_id)
        if running and not seen:
            progress.message("trials of another process, or of one that died, are still running")
        seen |= running
        for study in studies.values():
            while any(trial.state == TrialState.WAITING for trial in _unfinished(study)):
                study.optimize(
                    lambda trial: runner.run(trial, latencies),
                    n_trials=1,
                    catch=(NonFiniteLossError, NothingToRunError),
                )
        if running:
            time.sleep(_POLL_SECONDS)
            for study in studies.values():
                _fail_stale(study)


def _unfinished(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING))


def _fail_stale(study: Study) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)
