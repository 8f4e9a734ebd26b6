"""How long the work of a session takes, said before it begins."""

import math
import resource
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

import torch

from nsopt.pruning.engine import PruneSchedule
from nsopt.pruning.rules import make_rule, with_enough_steps
from nsopt.pruning.search import is_complete, supervise_search
from nsopt.session.session import Session
from nsopt.settings import Price
from nsopt.storage import trials
from nsopt.tasks.batches import count_batches
from nsopt.tasks.task import Task
from nsopt.training.precision import time_training_step
from nsopt.training.settings import TrainSettings


class PlannedWork(NamedTuple):
    """Training steps of the network of some widths; `phase` names them for the user."""

    phase: str
    steps: int
    widths: tuple[int, ...]
    batch_size: int


def list_searches(session: Session, searches: Mapping[Price, int]) -> Iterator[PlannedWork]:
    """Yield the missing iterations of searches, from the numbers of iterations by price."""
    subject, base, compute = session.subject, session.subject.arch.base_widths, session.compute
    for price, iterations in searches.items():
        history = trials.read_iterations(session.studies().get(subject.search_kind(price)))
        settings = subject.settings.search.updated(price=price, iterations=iterations)
        if not is_complete(history, settings):
            settings = with_enough_steps(subject.arch, base, settings)
            data = supervise_search(subject.data, settings, compute).batches(
                settings.batch_size, settings.seed
            )
            steps = make_rule(subject.arch, base, settings).steps
            batches = PruneSchedule(steps, data.per_epoch, settings).batches
            yield PlannedWork(
                "searches", (iterations - len(history)) * batches, base, settings.batch_size
            )


def plan_training(
    session: Session, settings: TrainSettings, widths: tuple[int, ...], phase: str
) -> PlannedWork:
    data, size = session.subject.data, settings.batch_size
    if isinstance(data, Task):
        per_epoch = count_batches(data.train)
    else:
        per_epoch = math.ceil(len(session.subject.splits.train) / size)
    steps = max(settings.epochs * per_epoch, settings.least_steps or 0)
    return PlannedWork(phase, steps, widths, size)


def tell_duration(session: Session, work: Iterable[PlannedWork]) -> None:
    """Say how long work takes, phase by phase; a step of each network is timed once.

    Raises:
        OutOfMemoryError: if a batch does not fit the device.
    """
    arch, data, compute = session.subject.arch, session.subject.data, session.compute
    time_step = cache(lambda widths, size: time_training_step(arch, widths, size, data, compute))
    seconds = dict[str, float]()
    for phase, steps, widths, batch_size in work:
        seconds[phase] = seconds.get(phase, 0.0) + steps * time_step(widths, batch_size)
    if seconds:
        parts = ", ".join(f"{phase} {format_duration(spent)}" for phase, spent in seconds.items())
        session.progress.message(
            f"takes about {format_duration(sum(seconds.values()))} here ({parts}), more where "
            "widths compute more than uniform ones, and "
            f"{_peak_memory(compute.device) / 2**30:.1f} GB of memory"
        )


def _peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process in bytes, on an accelerator or in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def format_duration(seconds: float) -> str:
    for length, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{max(1, round(seconds))} s"
