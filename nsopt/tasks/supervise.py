"""A task, or images with labels: loaded by its name, checked for a network, placed on a device."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nsopt.compute.device import Compute, free_memory, keep_random_state, memory_for
from nsopt.data.images import ImageData, ImageSet, Splits
from nsopt.data.registry import load_data
from nsopt.data.source import Source, is_folder
from nsopt.errors import NsoptError, short_reason, shorten
from nsopt.inputs import call_network
from nsopt.models.architecture import Architecture
from nsopt.models.imported import import_function
from nsopt.models.networks import inputs_for
from nsopt.settings import SgdSettings
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervision import Supervision
from nsopt.tasks.task import Task, TaskSupervision

_LARGEST_PART = 0.1  # of the free memory, because several workers may share the device


def supervise(
    task: Task | ImageData, settings: SgdSettings, compute: Compute, images: int | None = None
) -> Supervision:
    """Return a task on the device of `compute`; images are split and augmented by the settings.

    Args:
        images: see `Splits.with_train_images`.

    Raises:
        NsoptError: if `task` is neither a task nor images, or if there are too few images.
        OutOfMemoryError: if the device has too little memory.
    """
    check_task(task)
    if isinstance(task, Task):
        return TaskSupervision(task, compute.device)
    splits = task.split(settings.val_fraction).with_train_images(images)
    return Classification(place_images(splits, compute), settings.resized_crop)


def has_loss(task: Task | ImageData) -> bool:
    """Return whether a network can be trained on the task without a teacher."""
    return isinstance(task, ImageData) or task.loss is not None


def check_task(task: object) -> Task | ImageData:
    """Return `task`. Raises NsoptError if it is neither a task nor images with labels."""
    if not isinstance(task, Task | ImageData):
        raise NsoptError(
            f"give an nsopt.Task or an nsopt.ImageData, such as nsopt.load_data('digits'), not "
            f"{shorten(task)}"
        )
    return task


def place_images(splits: Splits, compute: Compute) -> Splits:
    """Move `splits` to the device of `compute`.

    A set that needs more than a tenth of the device's free memory stays where it is. Its batches
    have the same content and are copied one by one.

    Raises:
        OutOfMemoryError: if the device has too little memory.
    """
    device = compute.device
    with memory_for(device, "the images"):
        return replace(
            splits,
            train=_place(splits.train, device),
            validation=_place(splits.validation, device),
            test=_place(splits.test, device),
            mean=splits.mean.to(device),
            std=splits.std.to(device),
        )


def _place(images: ImageSet, device: torch.device) -> ImageSet:
    free = free_memory(device)
    size = len(images) * math.prod(images.shape)
    if free is not None and size > _LARGEST_PART * free:
        return images
    return images.to(device)


def import_task(name: str) -> Task:
    """Import a user's function and return its task.

    Args:
        name: `package.module:function`. It must come from the user of this command, never from a
            storage, because importing runs code.

    Raises:
        NsoptError: if the function does not exist, fails, or returns anything else.
    """
    function = import_function(name)
    try:
        made = function()
    except NsoptError:
        raise
    except (Exception, SystemExit) as error:
        raise NsoptError(
            f"{name} makes no task ({type(error).__name__}: {error}): name a function without "
            "arguments that returns an nsopt.Task"
        ) from error
    if not isinstance(made, Task):
        kind = type(made).__name__
        raise NsoptError(f"{name} returns a {kind}, not an nsopt.Task: name a function that does")
    return replace(made, source=Source(name))


def load_task(task: Task | ImageData | str) -> Task | ImageData:
    """Return a task or images, loaded if it is a name: of a data set, or of a function.

    Raises:
        NsoptError: for a name of neither, or an object that is neither.
    """
    if isinstance(task, str):
        return load_data(task) if is_folder(task) or ":" not in task else import_task(task)
    return check_task(task)


def import_given_task(name: str | None) -> Task | None:
    """Return the task of `name` as `import_task` does; None without a name."""
    return None if name is None else import_task(name)


def make_example(data: ImageData | Task) -> Any:
    """Return inputs with which a network for these data can be traced."""
    if isinstance(data, Task):
        return data.inputs
    return torch.zeros(2, data.channels, data.image_size, data.image_size)


def check_outputs(arch: Architecture, data: ImageData | Task) -> None:
    """Raise NsoptError unless a network takes images of this size, and returns logits for them, at
    least one for each class. Of other tasks it takes the inputs; the outputs are for their own
    functions.
    """
    check_task(data)
    if isinstance(data, Task):
        _check_run(arch, data, False, "give nsopt.trace a batch of the task")
        return
    images = make_example(data)
    wanted, shape = tuple(arch.input_shape), tuple(images.shape[1:])
    if wanted != shape:
        raise NsoptError(
            f"{arch.name} is for inputs of {wanted}, and images of {data.name} have {shape}: "
            "give the architecture of their size, so that its costs are theirs"
        )
    with keep_random_state(torch.device("cpu")), torch.no_grad():
        model = arch.build(arch.base_widths)
        for training in (False, True):
            outputs = model.train(training)(torch.rand_like(images))
            if not isinstance(outputs, Tensor) or outputs.ndim != 2:
                kind = type(outputs).__name__
                if isinstance(outputs, Tensor):
                    kind = f"tensor of shape {tuple(outputs.shape)}"
                raise NsoptError(
                    f"{arch.name} returns a {kind}{' in training' * training}, not logits "
                    f"(images, classes), here {(len(images), len(data.classes))}: wrap it so "
                    "that it returns those alone, or give an nsopt.Task with a loss of its "
                    "outputs"
                )
    if arch.num_classes < len(data.classes):
        raise NsoptError(
            f"{arch.name} has {arch.num_classes} outputs, and the data {len(data.classes)} classes"
        )


def check_training(arch: Architecture, task: Task | ImageData) -> None:
    """Raise NsoptError if a network runs in evaluation mode alone, also on a batch of the task."""
    if isinstance(task, Task) and arch.evaluates_only:
        advice = (
            "give what it needs there among the inputs, such as ((images, targets), targets), or "
            "epochs=0"
        )
        _check_run(arch, task, True, advice)


def _check_run(arch: Architecture, task: Task, training: bool, advice: str) -> None:
    """Raise NsoptError, with advice, unless a network runs on inputs of a task in this mode."""
    with keep_random_state(torch.device("cpu")), torch.set_grad_enabled(training):
        model = arch.build(arch.base_widths).train(training)
        try:
            inputs = task.first_batch[0] if training else task.inputs
            call_network(model, inputs_for(model, inputs))
        except NsoptError:  # of the task itself
            raise
        except Exception as error:
            raise NsoptError(
                f"{arch.name} does not run {'in training mode ' * training}on the inputs of "
                f"{task.name} ({short_reason(error)}): {advice}"
            ) from error
