"""Make a trained network smaller.

A search starts from its weights and yields laws. Scores after a few training steps choose the
widths at every budget. The network of these widths and the uniform one inherit the most important
filters and are fine-tuned; their validation accuracies can overrule the scores. Every step is an
Optuna study, so that the same call continues after an interruption.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import optuna
import torch
from torch import nn

from nsopt.compression.budgets import (
    Budget,
    check_budgets,
    check_words,
    naming,
    read_compression_budgets,
    read_limited_metrics,
)
from nsopt.compression.own_compression import run_own_compression
from nsopt.compression.own_task import Score, make_own_task
from nsopt.compression.result import CompressedClassifier, Compression, OwnCompression
from nsopt.compression.rounding import with_fast_multiple
from nsopt.compression.scores import read_accuracies, store_scored_law
from nsopt.compute.checkpoint import weights_checksum
from nsopt.compute.sharing import sharing
from nsopt.data.images import ImageData
from nsopt.data.source import Source
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.deployment.kept import restore_network
from nsopt.deployment.trained import check_finite, describe_differences
from nsopt.errors import NsoptError
from nsopt.files import check_writable
from nsopt.latency.runtime import TORCH, Measure, Runtime, choose_runtime
from nsopt.methods.base import Method
from nsopt.methods.registry import BASELINE, DENSE, SCORED
from nsopt.models.architecture import Architecture
from nsopt.models.tracing.originals import copy_model
from nsopt.models.tracing.trace import trace
from nsopt.progress import Progress
from nsopt.reports.choice import choose_method, is_near_chance
from nsopt.reports.results import Results, read_results
from nsopt.scaling.metric import PARAMS, counted_costs
from nsopt.settings import BATCH_SIZE
from nsopt.storage import schema, trials
from nsopt.storage.urls import hide_password
from nsopt.study.compare import run_comparison
from nsopt.study.comparison import Comparison, Size
from nsopt.study.learned_latency import with_latency_if_needed
from nsopt.study.presets import StudySettings, get_preset, override
from nsopt.study.session import start_session
from nsopt.study.task import Task, check_outputs, read_all_settings, with_precision
from nsopt.study.workspace import Workspace
from nsopt.terminal import show_progress
from nsopt.training.step import Loss

PRESET = "compress"


class _Options(TypedDict, total=False):
    """The other arguments of `compress`, for any task."""

    arch: Architecture | None
    epochs: int
    candidates: int
    seeds: int
    settings: StudySettings | None
    measure: Measure | None
    runtime: str
    latency_batch_size: int
    out: Path | str | None
    progress: Progress | None


@overload
def compress(
    model: nn.Module, data: ImageData, budgets: Sequence[str], **options: Unpack[_Options]
) -> Compression: ...


@overload
def compress(
    model: nn.Module,
    *,
    budgets: Sequence[str],
    train_loader: Iterable[Any],
    loss: Loss,
    score: Score,
    **options: Unpack[_Options],
) -> OwnCompression: ...


def compress(
    model: nn.Module,
    data: ImageData | None = None,
    budgets: Sequence[str] = (),
    *,
    train_loader: Iterable[Any] | None = None,
    loss: Loss | None = None,
    score: Score | None = None,
    arch: Architecture | None = None,
    epochs: int = 10,
    candidates: int = 16,
    seeds: int = 1,
    settings: StudySettings | None = None,
    measure: Measure | None = None,
    runtime: str = TORCH.name,
    latency_batch_size: int = BATCH_SIZE,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> Compression | OwnCompression:
    """Return smaller networks that inherit from a trained one, fine-tuned, at budgets.

    Give either `data`, or `train_loader`, `loss` and `score` for any other task.

    Args:
        model: a trained network; it does not change. With `data`, a classifier of images
            (B, C, H, W).
        data: images and labels; `data.normalised_by(mean, std)` normalises them as in the training
            of the model.
        budgets: such as `macs=50%` of the model, `params=600k`, or `latency=5ms` for a batch of
            `latency_batch_size` images, measured on this device. Several limits of one network are
            one budget: `macs=50%,latency=5ms`.
        train_loader: yields batches, pairs of inputs and targets, such as a DataLoader or a list.
            Inputs are a tensor or a tuple of arguments.
        loss: `loss(outputs, targets)`, which training minimises.
        score: takes a network in evaluation mode, on the device of the settings, and returns its
            quality as a number, on data that training does not use; higher is better.
        arch: the architecture of `model`, if nsopt built it at its base widths; by default nsopt
            traces the model.
        epochs: number of epochs of fine-tuning.
        candidates: number of widths to score at each budget, each after a few training steps.
        seeds: number of fine-tunings; the result is the best by validation accuracy or by `score`.
        settings: settings of the search, of fine-tuning, and of rounding (`multiple_of`,
            `min_width`); by default `nsopt.get_preset("compress").settings`. `epochs` replaces
            their number of epochs. Distillation needs `data`.
        measure: a function that takes a network and a batch of images and returns milliseconds;
            see `nsopt.with_latency`.
        runtime: runs the networks that nsopt times: torch, onnxruntime or onnxruntime-int8.
        latency_batch_size: images per batch, for budgets in milliseconds and for `.latency`.
        out: a folder for all results. The same call then continues after an interruption, and
            optuna-dashboard shows its `study.db`. By default only the returned result is kept.
        progress: receives steps and messages; by default bars on a terminal and nothing elsewhere;
            `nsopt.Silent()` for silence.

    Returns:
        The original network and, for each budget, the best one: `result[budget].model`.

    Raises:
        NsoptError: for invalid numbers, if the model already meets a budget, if no widths meet a
            budget, or if the model cannot be pruned.

    Examples:
        >>> result = nsopt.compress(model, data, ["macs=50%"])
        >>> result["macs=50%"].accuracy, result.dense.accuracy
        >>> result.report("report")
    """
    parts = [part is not None for part in (train_loader, loss, score)]
    is_own_task = data is None and all(parts)
    is_classifier = data is not None and not any(parts)
    if not (is_own_task or is_classifier):
        raise NsoptError(
            "compress needs data=..., or train_loader=..., loss=... and score=... together"
        )
    _check_arguments(model, data, budgets, (epochs, candidates, seeds), (loss, score))
    if out is not None:
        check_writable(Path(out), "out=")
    timed_in = choose_runtime(runtime, measure, latency_batch_size)
    arch = arch and arch.with_latency(None)  # measured as timed_in does, beside the trained network
    model = copy_model(model).cpu().eval()
    check_finite(model, "the model")
    if arch is not None:
        _check_weights(model, arch)
    settings = override(settings or get_preset(PRESET).settings, {"training": {"epochs": epochs}})
    with ExitStack() as stack:
        stack.enter_context(_quiet_optuna())
        if out is None:
            out = stack.enter_context(tempfile.TemporaryDirectory(prefix="nsopt-"))
        display = stack.enter_context(show_progress(progress))
        if data is not None:
            task = make_task(model, data, arch, settings, timed_in)
            workspace = Workspace(f"sqlite:///{Path(out) / 'study.db'}", Path(out))
            task = with_precision(task, workspace)
            task, found = prepare_budgets(task, budgets, workspace, display)
            return run_compression(task, found, candidates, seeds, workspace, display)
        assert train_loader is not None
        assert loss is not None
        assert score is not None
        own_task = make_own_task(
            model, train_loader, loss, score, arch, settings, timed_in, Path(out), display
        )
        shared = stack.enter_context(sharing(own_task.compute, display))
        own_task = replace(own_task, compute=shared)
        return run_own_compression(own_task, budgets, candidates, seeds)


def _check_arguments(
    model: object,
    data: object,
    budgets: object,
    numbers: Sequence[object],
    functions: Sequence[object],
) -> None:
    """Raise NsoptError for arguments of the wrong type, small numbers, and invalid budgets."""
    if not isinstance(model, nn.Module):
        raise NsoptError(f"give a torch.nn.Module with its weights, not {model!r:.50}")
    if not isinstance(data, ImageData | None):
        raise NsoptError("data must be an nsopt.ImageData, as nsopt.load_data('folder:photos')")
    if isinstance(budgets, str) or not isinstance(budgets, Sequence):
        raise NsoptError("budgets must be a list of words: ['macs=50%', 'latency=5ms']")
    if not all(isinstance(number, int) and number >= 1 for number in numbers):
        raise NsoptError("epochs, candidates and seeds must be at least 1, and whole numbers")
    if not all(function is None or callable(function) for function in functions):
        raise NsoptError("loss and score must be functions: loss=nn.CrossEntropyLoss()")
    check_words(budgets)


def _check_weights(model: nn.Module, arch: Architecture) -> None:
    """Raise NsoptError unless a network has the shapes of an architecture's base widths."""
    differences = describe_differences(arch, arch.base_widths, model.state_dict())
    if differences:
        raise NsoptError(
            f"the model is not {arch.name} of base widths: {differences}; without arch= nsopt "
            "traces the model"
        )


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Silence Optuna's log of studies: `progress` reports what happens."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


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
    _tell_accuracy(task, workspace, progress)
    for metric in dict.fromkeys(metric for word in words for metric in read_limited_metrics(word)):
        task = with_latency_if_needed(task, metric, (), workspace, progress)
    budgets = read_compression_budgets(words, task.arch)
    stored = read_all_settings(task, workspace)
    settings = with_fast_multiple(task.settings, budgets, task.arch, task.runtime, stored, progress)
    return replace(task, settings=settings), budgets


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
        for budget in budgets:
            with naming(budget):
                store_scored_law(session, budget, candidates)
    sizes = tuple(Size(budget.metric, budget.limit) for budget in budgets)
    run_comparison(Comparison(task, methods, sizes, seeds), workspace, progress)
    results = read_results(workspace.url, task.name)
    return Compression(
        _find_best(task, workspace, Budget("100%", PARAMS, whole.budget), (DENSE,), results),
        {budget.word: _find_best(task, workspace, budget, methods, results) for budget in budgets},
        results,
    )


def _tell_accuracy(task: Task, workspace: Workspace, progress: Progress) -> None:
    """Say first how accurate the trained network is, because a wrong normalisation shows there."""
    accuracy = _read_accuracy(task, workspace)
    if accuracy is None:
        with start_session(task, workspace, progress) as session:
            accuracy = session.validate_start()
    classes, images = len(task.data.classes), len(task.splits.validation)
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
) -> CompressedClassifier:
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
    means = results.outcomes.query(at_budget).groupby("method")["val_accuracy"].mean()
    accuracies = {name: float(means[name]) for name in distinct.values()}
    name = choose_method(accuracies, len(task.splits.validation))
    best = found[name]
    before = read_accuracies(workspace, task.name, budget)
    file = BestNetworks(workspace.artifacts).file(studies[name], best)
    network = restore_network(file, task.arch)
    latencies = dict(zip(results.outcomes["widths"], results.outcomes["latency_ms"], strict=True))
    return CompressedClassifier(
        budget=budget.word,
        method=name,
        widths=network.widths,
        score=before.get(schema.width_key(network.widths)),
        accuracy=network.test_accuracy,
        cost=counted_costs(task.arch, network.widths),
        latency=float(latencies[network.widths]),
        model=network.model,
        network=network,
    )
