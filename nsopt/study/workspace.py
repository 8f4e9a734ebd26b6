"""Where an experiment is worked on: its storage, and the folder of what is unfinished."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from optuna.storages import BaseStorage
from optuna.study import Study

from nsopt.compute.checkpoint import remove_checkpoints, remove_empty_folders
from nsopt.errors import NsoptError
from nsopt.storage.opening import ARTIFACTS, open_storage, storage_exists
from nsopt.storage.studies import load_studies
from nsopt.storage.urls import sqlite_path

_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, eq=False)
class Workspace:
    """url: of the Optuna storage; folder: of everything else; data_dir: of data sets; workers:
    processes of this machine that share the work."""

    url: str
    folder: Path
    data_dir: Path = Path("data")
    workers: int = 1

    @cached_property
    def storage(self) -> BaseStorage:
        """The storage, opened when it is first asked for; that makes it, too."""
        return open_storage(self.url)

    @property
    def has_storage(self) -> bool:
        """Whether there may be results already; looking creates nothing."""
        return storage_exists(self.url)

    def studies(self, prefix: str) -> dict[str, Study]:
        """Return the stored studies whose names are `prefix/KIND`, by kind; looking creates
        nothing."""
        return load_studies(self.storage, prefix) if self.has_storage else {}

    @property
    def shared(self) -> bool:
        """Whether other processes may be waiting for something to do."""
        return self.workers > 1 or sqlite_path(self.url) is None

    @property
    def artifacts(self) -> Path:
        """Folder of the weights that are kept."""
        return self.folder / ARTIFACTS

    def checkpoints(self, study: str) -> Path:
        """Folder of the checkpoints of one study, by its name. Nobody else writes there.

        NsoptError for a name, which may come from the storage, that leads out of the folder.
        """
        if ".." in Path(study).parts or Path(study).is_absolute():
            raise NsoptError(f"the study {study!r} has no folder here: its name leads elsewhere")
        return self.folder / _CHECKPOINTS / study

    def clear(self, study: str) -> None:
        """Delete the checkpoints of a study that has nothing unfinished."""
        remove_checkpoints(self.checkpoints(study))
        self.tidy()

    def tidy(self) -> None:
        """Delete folders of checkpoints that hold none."""
        remove_empty_folders(self.folder / _CHECKPOINTS)
