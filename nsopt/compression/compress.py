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
from torch import nn

from nsopt.compression.budgets import check_words
from nsopt.compression.classifier_compression import make_task, prepare_budgets, run_compression
from nsopt.compression.own_compression import run_own_compression
from nsopt.compression.own_task import make_own_task
from nsopt.compression.result import Compression, OwnCompression
from nsopt.compute.sharing import sharing
from nsopt.data.images import ImageData
from nsopt.deployment.trained import check_finite, describe_differences
from nsopt.errors import NsoptError
from nsopt.files import check_writable
from nsopt.latency.runtime import TORCH, Measure, choose_runtime
from nsopt.models.architecture import Architecture
from nsopt.models.tracing.originals import copy_model
from nsopt.progress import Progress
from nsopt.settings import BATCH_SIZE
from nsopt.study.presets import StudySettings, get_preset, override
from nsopt.study.task import with_precision
from nsopt.study.workspace import Workspace
from nsopt.tasks.supervision import Loss
from nsopt.tasks.task import Score
from nsopt.terminal import show_progress

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
    _check_arguments(model, data, budgets, settings, (epochs, candidates, seeds), (loss, score))
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
    settings: object,
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
    if not isinstance(settings, StudySettings | None):
        raise NsoptError(
            "settings must be those of a preset: nsopt.get_preset('compress').settings"
        )
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
