"""Make a trained classifier of images smaller, step by step; the steps are stored as studies."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from nsopt.compression.budgets import (
    Budget,
    check_budgets,
    naming,
    read_compression_budgets,
)
from nsopt.compression.latency import with_fast_multiple, with_latency_for
from nsopt.compression.result import Compressed, Compression
from nsopt.compression.scores import correct_for_uniform, read_accuracies, store_scored_law
from nsopt.compute.checkpoint import weights_checksum
from nsopt.compute.device import resolve_compute
from nsopt.compute.sharing import sharing
from nsopt.data.images import ImageData
from nsopt.data.source import Source
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.deployment.kept import load_network
from nsopt.errors import NsoptError
from nsopt.latency.allowance import LEAST, Allowance
from nsopt.latency.runtime import Runtime
from nsopt.latency.timer import Timer
from nsopt.methods.base import Method
from nsopt.methods.registry import BASELINE, DENSE, SCORED
from nsopt.models.architecture import Architecture
from nsopt.models.tracing.trace import trace
from nsopt.progress import Progress
from nsopt.reports.choice import choose_method, is_near_chance
from nsopt.reports.results import Results, read_results
from nsopt.scaling.metric import PARAMS, counted_costs
from nsopt.storage import schema, trials
from nsopt.storage.urls import hide_password
from nsopt.study.compare import run_comparison
from nsopt.study.comparison import Comparison, Size
from nsopt.study.presets import StudySettings
from nsopt.study.session import start_session
from nsopt.study.task import Task, check_outputs, list_studies
from nsopt.study.workspace import Workspace


def make_task(
    model: nn.Module,
    data: ImageData,
    arch: Architecture | None,
    settings: StudySettings,
    runtime: Runtime,
) -> Task:
    """Return the task of making a trained classifier smaller; without `arch` nsopt traces it."""
    if arch is None:
        arch = trace(model, torch.zeros(2, data.channels, data.image_size, data.image_size))
    check_outputs(arch, data)
    settings = settings.updated(
        start=weights_checksum(model),
        runtime=runtime.name,
        latency_batch_size=runtime.batch_size,
    )
    return Task(arch, data, Source(data.name), settings, model, runtime)


def prepare_budgets(
    task: Task, words: Sequence[str], workspace: Workspace, progress: Progress
) -> tuple[Task, tuple[Budget, ...]]:
    """Return the task, with a latency model and rounding if a budget needs them, and the budgets.

    Raises:
        NsoptError: for invalid budgets; most are found before nsopt measures anything.
        NoWidthsError: if no widths meet a budget. For milliseconds the measurements will tell.
    """
    check_budgets(words, task.arch, task.settings)
    _report_accuracy(task, workspace, progress)
    studies = list_studies(task, workspace)
    stored = [schema.read_settings(study) for study in studies]
    with sharing(resolve_compute(task.settings.training.device, "fp32"), progress) as compute:
        timer = Timer(compute, task.runtime, progress, allowance=Allowance(LEAST))
        arch = with_latency_for(words, task.arch, studies, timer)
        budgets = read_compression_budgets(words, arch)
        settings = with_fast_multiple(task.settings, budgets, arch, stored, timer)
    return replace(task, arch=arch, settings=settings), budgets


def run_compression(
    task: Task,
    budgets: Sequence[Budget],
    candidates: int,
    seeds: int,
    workspace: Workspace,
    progress: Progress,
) -> Compression:
    """Run the missing steps of a compression, and return its networks."""
    methods = BASELINE, SCORED
    whole = Size(PARAMS, PARAMS.cost(task.arch)(task.arch.base_widths), 1.0)
    run_comparison(Comparison(task, (DENSE,), (whole,), 1), workspace, progress)
    with start_session(task, workspace, progress) as session:
        for budget in budgets:  # one without widths ends all, before any is computed
            with naming(budget, task.settings):
                correct_for_uniform(session, budget)
        for budget in budgets:
            with naming(budget, task.settings):
                store_scored_law(session, budget, candidates)
    sizes = tuple(Size(budget.metric, budget.limit) for budget in budgets)
    run_comparison(Comparison(task, methods, sizes, seeds), workspace, progress)
    results = read_results(workspace.url, task.name)
    return Compression(
        _find_best(task, workspace, Budget("100%", PARAMS, whole.budget), (DENSE,), results),
        {budget.word: _find_best(task, workspace, budget, methods, results) for budget in budgets},
        results,
    )


def _report_accuracy(task: Task, workspace: Workspace, progress: Progress) -> None:
    """Report first how accurate the trained network is: a wrong normalisation shows there."""
    accuracy = _read_accuracy(task, workspace)
    if accuracy is None:
        with start_session(task, workspace, progress) as session:
            accuracy = session.validate_start()
    classes, images = len(task.images.classes), len(task.splits.validation)
    text = f"the trained network is right for {accuracy:.1f} % of the validation images"
    if is_near_chance(accuracy, classes, images):
        text += (
            f", and guessing for {100 / classes:.1f} %: are these its trained weights, and are "
            "--mean and --std those of its training?"
        )
    progress.message(text)


def _read_accuracy(task: Task, workspace: Workspace) -> float | None:
    """Return the stored validation accuracy (%) of the trained network on the same images."""
    study = workspace.studies(task.name).get(DENSE.name)
    done = trials.read_completed(study) if study else []
    if study is None or not done:
        return None
    stored = schema.read_settings(study)
    asked = task.settings.start, task.splits.fingerprint
    return float(done[0].values[0]) if (stored["start"], stored["data"]) == asked else None


def _find_best(
    task: Task, workspace: Workspace, budget: Budget, methods: Sequence[Method], results: Results
) -> Compressed:
    """Return the network at a budget that `choose_method` names, of its best seed.

    Its latency is that of the report, which all networks were timed for side by side.
    """
    studies = task.stored_studies(workspace)
    found = {
        method.name: trial
        for method in methods
        if method.name in studies
        for trial in best_trials(studies[method.name]).values()
        if budget.holds(trial)
    }
    if not found:
        raise NsoptError(
            f"no training at {budget.word} succeeded: see {hide_password(workspace.url)}"
        )
    # Of equal widths, those of the first method count.
    layers = task.arch.layer_names
    distinct = {trials.read_widths(trial, layers): name for name, trial in reversed(found.items())}
    at_budget = "metric == @budget.metric.name and budget == @budget.limit"
    means = results.outcomes.query(at_budget).groupby("method")["score"].mean()
    accuracies = {name: float(means[name]) for name in distinct.values()}
    name = choose_method(accuracies, len(task.splits.validation))
    best = found[name]
    before = read_accuracies(workspace, task.name, budget)
    file = BestNetworks(workspace.artifacts).file(studies[name], best)
    network = load_network(file, task.arch)
    latencies = dict(zip(results.outcomes["widths"], results.outcomes["latency_ms"], strict=True))
    return Compressed(
        budget=budget.word,
        method=name,
        widths=network.widths,
        before=before.get(schema.width_key(network.widths)),
        score=network.val_accuracy,
        test_score=network.test_accuracy,
        cost=counted_costs(task.arch, network.widths),
        latency=float(latencies[network.widths]),
        model=network.model,
        kept=network,
    )
