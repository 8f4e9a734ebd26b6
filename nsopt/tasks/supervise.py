"""A task, or images with labels, on a device."""

from nsopt.compute.device import Compute
from nsopt.compute.placement import place_images
from nsopt.data.images import ImageData
from nsopt.errors import NsoptError, shorten
from nsopt.settings import SgdSettings
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervision import Supervision
from nsopt.tasks.task import Task, TaskSupervision


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


def check_task(task: object) -> None:
    """Raise NsoptError if `task` is neither a task nor images with labels."""
    if not isinstance(task, Task | ImageData):
        raise NsoptError(
            f"give an nsopt.Task or an nsopt.ImageData, such as nsopt.load_data('digits'), not "
            f"{shorten(task)}"
        )
