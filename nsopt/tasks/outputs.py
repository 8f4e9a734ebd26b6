"""What a network takes and returns, beside what a task or images need."""

from typing import Any

import torch
from torch import Tensor

from nsopt.compute.random_state import keep_random_state
from nsopt.data.images import ImageData
from nsopt.errors import NsoptError, short_reason
from nsopt.inputs import call_network
from nsopt.models.architecture import Architecture
from nsopt.models.layout import inputs_for
from nsopt.tasks.supervise import check_task
from nsopt.tasks.task import Task


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
