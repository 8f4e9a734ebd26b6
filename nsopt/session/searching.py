"""The searches of a subject, how long its work takes, and the end of all its work."""

import math
import resource
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, get_args

import torch

from nsopt.compute.checkpoint import Checkpoint
from nsopt.compute.device import resolve_compute
from nsopt.deployment.artifacts import BestNetworks
from nsopt.errors import DeterministicError
from nsopt.files import hold_lock, is_being_done
from nsopt.pruning.engine import PruneSchedule
from nsopt.pruning.rules import make_rule, with_enough_steps
from nsopt.pruning.search import Descent, is_complete, supervise_search
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.record import Iteration
from nsopt.session.session import Session
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.engine import provenance
from nsopt.storage.studies import is_unfinished
from nsopt.tasks.batches import count_batches
from nsopt.tasks.task import Task
from nsopt.training.precision import time_training_step
from nsopt.training.settings import TrainSettings


def continue_searches(
    session: Session, searches: Mapping[Price, int]
) -> dict[Price, list[Iteration]]:
    """Return the iterations of searches by price: the stored ones, then the missing ones.

    Each finished iteration is stored as one completed trial. An error or an interruption does not
    change the storage; the same command continues the iteration from a checkpoint. If two commands
    run in one folder, one searches and the other waits.

    Args:
        searches: the number of iterations needed, by price. Searches differ only in their price,
            so that the first one pre-trains the network for all.
    """
    histories: dict[Price, list[Iteration]] = {}
    shared = find_pretrained_file(session)
    try:
        with Checkpoint(shared, {}).remove_on(DeterministicError):
            for price, iterations in searches.items():
                is_last = len(histories) + 1 == len(searches)
                kept = None if is_last and not shared.exists() else shared
                histories[price] = _continue_search(session, price, iterations, kept)
    finally:
        session.workspace.tidy()
    return histories


def find_pretrained_file(session: Session) -> Path:
    """Return the file of the pre-trained network that searches of several prices share."""
    folder = session.workspace.checkpoints(session.subject.study_name(schema.PRETRAINED))
    return folder / "network.pt"


def hold_search(session: Session, folder: Path) -> AbstractContextManager[None]:
    """Let one process of this machine search in `folder`; the others say that they wait."""
    waiting = "waiting for the search of another command in this folder"
    return hold_lock(folder, partial(session.progress.message, waiting))


def search_task(
    session: Session,
    settings: SearchSettings,
    history: Sequence[Iteration],
    checkpoint: Path,
    pretrained: Path | None = None,
) -> Iterator[Iteration]:
    """Run a search with the device, precision and validation images of `settings`."""
    subject = session.subject
    compute = resolve_compute(settings.device, settings.precision)
    descent = Descent(
        subject.arch,
        supervise_search(subject.data, settings, compute),
        settings,
        compute,
        session.progress,
        checkpoint,
        subject.start,
        None if subject.start else pretrained,
    )
    return descent.run(history)


def clear_finished(session: Session) -> None:
    """Delete checkpoints of a session's finished studies, and networks that are not best."""
    subject, workspace = session.subject, session.workspace
    studies = subject.stored_studies(workspace)
    busy = {m for m, study in studies.items() if is_unfinished(study.get_trials(deepcopy=False))}
    for method in {m for m in studies.keys() - busy if not schema.is_search(m)}:
        workspace.clear(subject.study_name(method))
        BestNetworks(workspace.artifacts).clear(studies[method])
    if not busy:
        workspace.clear(subject.study_name(schema.BASE))
    kinds = {subject.search_kind(price) for price in get_args(Price)}
    searching = map(is_being_done, (workspace.checkpoints(subject.study_name(k)) for k in kinds))
    if not any(searching):  # a search may still need the network that several share
        Checkpoint(find_pretrained_file(session), {}).remove()
        workspace.tidy()


def _continue_search(
    session: Session, price: Price, iterations: int, pretrained: Path | None
) -> list[Iteration]:
    """Return the requested iterations. Wait for other processes that search in this folder."""
    subject, workspace = session.subject, session.workspace
    kind = subject.search_kind(price)
    folder = workspace.checkpoints(subject.study_name(kind))
    with hold_search(session, folder):
        history = trials.read_iterations(subject.stored_studies(workspace, kind).get(kind))
        settings = subject.settings.search.updated(price=price, iterations=iterations)
        missing = search_task(session, settings, history, folder / "search.pt", pretrained)
        layers = subject.arch.layer_names
        for number, iteration in enumerate(missing, start=len(history) + 1):
            study = session.open_study(kind)
            trial = trials.search_trial(iteration, number, layers, provenance(session.compute))
            study.add_trial(trial)
            how = ", fitted layer by layer" if iteration.record.by_layer else ""
            session.progress.message(
                f"{kind} iteration {number}: {len(iteration.record.tau)} rows{how}, "
                f"r2 {iteration.law.r2.min():.3f} at least, {iteration.seconds:.0f} s"
            )
            if misfits := iteration.explain_misfits(layers):
                session.progress.warning(f"{kind} iteration {number}: {misfits}")
            history = trials.read_iterations(study)
        return history[:iterations]


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
