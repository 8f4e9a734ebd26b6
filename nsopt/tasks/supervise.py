"""A task, or images with labels, on a device."""

import math
from dataclasses import replace

import torch

from nsopt.compute.device import Compute
from nsopt.compute.out_of_memory import free_memory, memory_for
from nsopt.data.images import ImageData, ImageSet, Splits
from nsopt.errors import NsoptError, shorten
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
