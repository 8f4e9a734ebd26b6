"""A user's function instead of nsopt's own fine-tuning."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nsopt.compute.checkpoint import full_state, load_full_state
from nsopt.compute.device import Compute, place, use_seed
from nsopt.errors import NonFiniteLossError, NsoptError
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.tasks.supervision import Supervision, evaluate, evaluations_of
from nsopt.tracing.originals import shapes_of, unwrapped
from nsopt.training.outcome import Epoch, Outcome


@dataclass(frozen=True)
class TrainerContext:
    """What a trainer needs to know besides the network and the task.

    Attributes:
        seed: of this training; torch's random numbers are already seeded with it.
        epochs: number of epochs that the settings ask for.
        device: of the network.
        teacher: the trained network that the smaller one inherits from, on the CPU in evaluation
            mode; None if there is none.
        folder: for the trainer's own checkpoints; it exists, and is the same after an interruption.
    """

    seed: int
    epochs: int
    device: torch.device
    teacher: nn.Module | None
    folder: Path


Trainer = Callable[[nn.Module, Any, TrainerContext], nn.Module]


def train_by(
    trainer: Trainer,
    arch: Architecture,
    widths: tuple[int, ...],
    model: nn.Module,
    task: Any,
    supervision: Supervision,
    compute: Compute,
    context: TrainerContext,
) -> Outcome:
    """Train a network by a user's function, and score the tensors that it returns.

    Args:
        model: the network of `widths` to start from, on the device of `compute`.
        task: is passed to the trainer.
        supervision: the same task, on the device.

    Raises:
        NsoptError: if the trainer returns no network of these widths, or weights that are not
            finite.
    """
    began = time.perf_counter()
    context.folder.mkdir(parents=True, exist_ok=True)
    types = [p.dtype for p in model.parameters()]
    with use_seed(context.seed, compute.device):
        trained = trainer(model, task, context)
    if isinstance(trained, nn.Module):
        trained = unwrapped(trained)
    expected = arch.shapes(widths)
    if not isinstance(trained, nn.Module) or shapes_of(trained.state_dict()) != expected:
        raise NsoptError(
            "the trainer must return the network that it got, trained: a module with the same "
            "tensors"
        )
    finite = all(bool(p.isfinite().all()) for p in trained.parameters())
    if not finite or any(bool(buffer.isnan().any()) for buffer in trained.buffers()):
        raise NonFiniteLossError("the trainer returned weights that are NaN or infinite")
    if [p.dtype for p in trained.parameters()] != types:
        raise NsoptError("the trainer must return weights of the same dtype as those that it got")
    kept = build_to_fill(arch, widths)  # what is stored are tensors: only these may decide a score
    load_full_state(kept, full_state(trained))
    kept = place(kept, compute.device, arch.layout).eval()
    evaluations = evaluations_of(supervision, compute).values()
    epoch = Epoch(math.nan, *(evaluate(part, kept) for part in evaluations))
    return Outcome(widths, (epoch,), time.perf_counter() - began, epoch, kept)
