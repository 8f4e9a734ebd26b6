"""The searches of a task: their iterations in storage, and those that are missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from nsopt.compute.checkpoint import Checkpoint
from nsopt.compute.device import resolve_compute
from nsopt.compute.locks import hold_lock, is_being_done
from nsopt.errors import DeterministicError
from nsopt.files import cache_folder
from nsopt.pruning.iterations import run_iterations
from nsopt.pruning.search import select_search_images
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.record import Iteration
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.provenance import provenance
from nsopt.study.session import Session


def continue_searches(
    session: Session, searches: Mapping[Price | None, int]
) -> dict[Price | None, list[Iteration]]:
    """Return the iterations of architecture descent by price: those stored, then the missing ones.

    An iteration is stored when it has ended, as one completed trial: an error or an interruption
    leaves the storage as it was. Within an iteration, the same command goes on from a checkpoint.
    Of two commands in one folder one searches, and the other waits.

    Args:
        searches: how many iterations are needed by price, None for that of the settings. Searches
            differ in nothing but their price, so that the first pre-trains the network for all.
    """
    found: dict[Price | None, list[Iteration]] = {}
    shared = pretrained_file(session)
    try:
        with Checkpoint(shared, {}).remove_on(DeterministicError):
            for price, iterations in searches.items():
                is_last = len(found) + 1 == len(searches)
                kept = None if is_last and not shared.exists() else shared
                found[price] = _Search(session, iterations, price, kept).continued()
    finally:
        session.workspace.tidy()
    return found


def pretrained_file(session: Session) -> Path:
    """Return the file of the pre-trained network that searches of several prices begin with."""
    folder = session.workspace.checkpoints(session.task.study_name(schema.PRETRAINED))
    return folder / "network.pt"


def is_searching(session: Session) -> bool:
    """Return whether a process searches in the folder of a session now."""
    kinds = {session.task.search_kind(price) for price in get_args(Price)}
    folders = [session.workspace.checkpoints(session.task.study_name(kind)) for kind in kinds]
    return any(is_being_done(cache_folder() / "locks", folder) for folder in folders)


def search_task(
    session: Session,
    settings: SearchSettings,
    history: Sequence[Iteration],
    checkpoint: Path,
    pretrained: Path | None = None,
) -> Iterator[Iteration]:
    """Run a search with the device, precision and validation images of `settings`."""
    task, splits = session.task, session.task.splits
    if settings.val_fraction != task.settings.training.val_fraction:
        splits = task.data.split(settings.val_fraction)
    own = replace(resolve_compute(settings.device, settings.precision), lock=session.compute.lock)
    images = select_search_images(splits, settings, own)
    return run_iterations(
        task.arch,
        images,
        settings,
        history,
        own,
        session.progress,
        checkpoint,
        task.start,
        None if task.start else pretrained,
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """One search of a session. pretrained: where its network is kept for searches of other
    prices."""

    session: Session
    iterations: int
    price: Price | None
    pretrained: Path | None

    @property
    def kind(self) -> str:
        return self.session.task.search_kind(self.price)

    def continued(self) -> list[Iteration]:
        """The iterations that are asked for, in this process's turn."""
        task, workspace = self.session.task, self.session.workspace
        folder = workspace.checkpoints(task.study_name(self.kind))

        def tell() -> None:
            self.session.progress.message(
                "waiting for the search of another command in this folder"
            )

        with hold_lock(cache_folder() / "locks", folder, tell):
            history = self._stored()
            missing = search_task(
                self.session,
                task.search_settings(self.price).updated(iterations=self.iterations),
                history,
                folder / "search.pt",
                self.pretrained,
            )
            for number, iteration in enumerate(missing, start=len(history) + 1):
                history = self._write(number, iteration)
            return history[: self.iterations]

    def _stored(self) -> list[Iteration]:
        """What the storage has; NsoptError if other settings wrote it."""
        study = self.session.task.stored_searches(self.session.workspace).get(self.kind)
        return trials.read_iterations(study) if study else []

    def _write(self, number: int, iteration: Iteration) -> list[Iteration]:
        """Store an iteration that has ended; return all that are stored."""
        session, layers = self.session, self.session.task.arch.layer_names
        study = session.open_study(self.kind)
        study.add_trial(trials.search_trial(iteration, number, layers, provenance(session.compute)))
        own = ", each layer on its own" if iteration.record.own_rows else ""
        session.progress.message(
            f"{self.kind} iteration {number}: {len(iteration.record.tau)} rows{own}, "
            f"r2 {iteration.law.r2.min():.3f} at least, {iteration.seconds:.0f} s"
        )
        doubts = iteration.doubts(layers)
        if doubts:
            session.progress.message(f"{self.kind} iteration {number}: {doubts}")
        return trials.read_iterations(study)
