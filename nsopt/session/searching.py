"""The searches of a subject: stored iterations, missing ones, and the end of all its work."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import get_args

from nsopt.compute.checkpoint import Checkpoint
from nsopt.compute.device import resolve_compute
from nsopt.deployment.artifacts import BestNetworks
from nsopt.errors import DeterministicError
from nsopt.files import hold_lock, is_being_done
from nsopt.pruning.search import Descent, supervise_search
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.record import Iteration
from nsopt.session.session import Session
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.provenance import provenance
from nsopt.storage.studies import is_unfinished


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
            if doubts := iteration.doubts(layers):
                session.progress.warning(f"{kind} iteration {number}: {doubts}")
            history = trials.read_iterations(study)
        return history[:iterations]
