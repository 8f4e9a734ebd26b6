"""Make a trained network smaller: `nsopt.compress`."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nsopt.compression.budgets import read_words
from nsopt.compression.pipeline import run_compression
from nsopt.compression.result import Compression
from nsopt.compute.checkpoint import check_storable
from nsopt.data.images import ImageData
from nsopt.deployment.kept import describe_differences
from nsopt.errors import NsoptError, shorten
from nsopt.isolation import public
from nsopt.models.architecture import Architecture
from nsopt.models.networks import check_finite, check_has_weights
from nsopt.models.trace import trace
from nsopt.progress import Progress, show_progress
from nsopt.session.presets import StudySettings, get_preset, override
from nsopt.session.subject import Subject, complete
from nsopt.session.workspace import Workspace, open_workspace
from nsopt.tasks.supervise import check_task, make_example
from nsopt.tasks.task import Task
from nsopt.tracing.makers import adopt_weights, check_weights
from nsopt.tracing.originals import copy_model, set_mode, unwrapped
from nsopt.training.trainer import Trainer

PRESET = "compress"
_BATCH = 64  # examples, where the inputs are a tensor


@public
def compress(
    model: nn.Module,
    task: Task | ImageData | Tensor | Iterable[Any],
    budgets: Sequence[str] | str,
    *,
    trainer: Trainer | None = None,
    epochs: int | None = None,
    arch: Architecture | None = None,
    settings: StudySettings | None = None,
    out: Path | str | Workspace | None = None,
    progress: Progress | None = None,
) -> Compression:
    """Return smaller networks that inherit from a trained one, fine-tuned, at budgets.

    Args:
        model: a trained network; it does not change. For images with labels, a classifier of images
            (B, C, H, W) that returns logits (B, classes).
        task: batches, loss and score; or images and labels, which `data.normalised_by(mean, std)`
            normalises as in the training of the model; or inputs without labels: a tensor of
            examples, or a loader of batches. Without a loss, networks are trained to return what
            the model returns; without a score, their agreement with the model on inputs that
            training does not see is the score.
        budgets: such as `macs=50%` of the model, `params=600k`, or `latency=5ms` for a batch of
            100 images, measured on this device. Several limits of one network are one budget:
            `macs=50%,latency=5ms`. "curve" is nine budgets from 90 to 10 % of the MACs, to see
            where a network becomes worse: best without training, `epochs=0`.
        trainer: `trainer(model, task, context)` returns the trained network: used in place of
            nsopt's own fine-tuning and of a trainer of the task, see `nsopt.Task`.
        epochs: number of epochs of fine-tuning, by default the settings', 10; fewer than 200 steps
            become 200. 0: no training. Networks are fitted to the trained one, layer after layer,
            on some of the task's inputs.
        arch: the architecture of `model`, if nsopt built it at its base widths; by default nsopt
            traces the model.
        settings: settings of the search, of fine-tuning and its number of `seeds`, of which the
            best by the score of the validation stays, of rounding (`multiple_of`, `min_width`) and
            of what measures milliseconds, see `nsopt.StudySettings`; by default
            `nsopt.get_preset("compress").settings`. Without settings, only images are distilled.
        out: a folder for all results, or the URL of an Optuna storage. The same call then continues
            after an interruption, and optuna-dashboard shows it. By default only the returned
            result is kept. The command line gives its workspace.
        progress: receives steps and messages; by default bars on a terminal, else lines on stderr;
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
    _check_arguments(model, settings)
    task = _read_task(task)
    settings = settings or get_settings(isinstance(task, ImageData))
    if epochs is not None:
        settings = settings.updated(training=settings.training.updated(epochs=epochs))
    is_trained = settings.training.epochs > 0
    if trainer is not None:
        if not is_trained:
            raise NsoptError("epochs=0 trains nothing: leave trainer= out, or give epochs=1")
        task = replace(task, trainer=trainer)
    asked = read_words(budgets)
    check_has_weights(model)
    model = set_mode(copy_model(unwrapped(model)).cpu(), training=False)
    check_finite(model, "the model")
    check_storable(model)
    if is_trained:
        check_weights(model, make_example(task))
    else:
        model = adopt_weights(model, make_example(task))
    if arch is not None:
        if differences := describe_differences(arch, arch.base_widths, model.state_dict()):
            raise NsoptError(
                f"the model is not {arch.name} of base widths: {differences}; without arch= nsopt "
                "traces the model"
            )
        arch = arch.with_latency(None)  # measured as the settings say, beside the trained network
    else:
        arch = trace(model, make_example(task))
    subject = Subject.of(arch, task, settings.updated(start=model))
    with open_workspace(out) as workspace, show_progress(progress) as display:
        subject = complete(subject, workspace, display)
        return run_compression(subject, asked, workspace, display)


def get_settings(images: bool) -> StudySettings:
    """Return the settings of a compression: those of the preset; only images are distilled."""
    settings = get_preset(PRESET).settings
    return settings if images else override(settings, {"training": {"distillation": None}})


def _read_task(task: object) -> Task | ImageData:
    """Return what the user gave as a task: of inputs alone, if it is a tensor or a loader."""
    if isinstance(task, Tensor):
        task = task.split(_BATCH)
    if isinstance(task, Iterable) and not isinstance(task, str):
        return Task(task, name="inputs")
    return check_task(task)


def _check_arguments(model: object, settings: object) -> None:
    """Raise NsoptError for arguments of the wrong type."""
    if not isinstance(model, nn.Module):
        raise NsoptError(f"give a torch.nn.Module with its weights, not {shorten(model)}")
    if not isinstance(settings, StudySettings | None):
        raise NsoptError(
            "settings must be those of a preset: nsopt.get_preset('compress').settings"
        )
