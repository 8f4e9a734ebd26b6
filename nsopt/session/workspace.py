"""The storage and the folder of a study."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import Study

from nsopt.errors import NsoptError
from nsopt.files import RUNS, STUDY_FILE, check_writable, limit_name, remove_of_killed
from nsopt.storage.opening import (
    ARTIFACTS,
    is_sqlite,
    open_storage,
    sqlite_url,
    storage_exists,
    storage_file,
)
from nsopt.storage.studies import load_studies, quiet_optuna

_CHECKPOINTS = "checkpoints"
_WORKERS_PER_CORE = 8


@dataclass(frozen=True, eq=False)
class Workspace:
    """Where a study is stored.

    Attributes:
        folder: for all files except the storage.
        workers: number of processes on this machine that share the work.
        temporary: whether the folder, with the storage, is deleted at the end.
    """

    url: str
    folder: Path
    data_dir: Path = Path("data")
    workers: int = 1
    temporary: bool = False

    def __post_init__(self) -> None:
        """Raise NsoptError for more workers than this machine can run."""
        most = _WORKERS_PER_CORE * (os.cpu_count() or 1)
        if self.workers > most:
            raise NsoptError(
                f"{self.workers:,} workers are too many for this machine: give at most {most}"
            )

    @cached_property
    def storage(self) -> BaseStorage:
        """The storage, opened or created at first use; in memory if no other process sees it."""
        if self.temporary and self.workers == 1:
            return InMemoryStorage()
        return open_storage(self.url)

    @property
    def has_storage(self) -> bool:
        """Whether a storage exists. Reading this creates nothing."""
        return self.temporary or storage_exists(self.url)

    def studies(self, prefix: str) -> dict[str, Study]:
        """Return the stored studies `prefix/KIND` by kind. This creates nothing."""
        return load_studies(self.storage, prefix) if self.has_storage else {}

    @property
    def shared(self) -> bool:
        """Whether other processes may be waiting for work."""
        return self.workers > 1 or not is_sqlite(self.url)

    @property
    def artifacts(self) -> Path:
        """The folder of trained networks."""
        return self.folder / ARTIFACTS

    def checkpoints(self, study: str) -> Path:
        """Return the folder for the checkpoints of a study, which no other code writes to.

        Raises:
            NsoptError: for a name, possibly from the storage, that points outside the folder.
        """
        if ".." in Path(study).parts or Path(study).is_absolute():
            raise NsoptError(f"the study {study!r} has no folder here: its name points outside")
        return self.folder / _CHECKPOINTS / Path(*map(limit_name, Path(study).parts))

    def clear(self, study: str) -> None:
        """Delete the checkpoints of a study without unfinished trials, but not what a living
        process is writing."""
        folder = self.checkpoints(study)
        for path in folder.glob("*.pt"):
            path.unlink(missing_ok=True)
        remove_of_killed(folder)
        self.tidy()

    def tidy(self) -> None:
        """Delete empty folders of checkpoints."""
        root = self.folder / _CHECKPOINTS
        folders = sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True)
        for folder in [*folders, root]:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def open_workspace(out: "Path | str | Workspace | None") -> Iterator[Workspace]:
    """Yield the workspace that a user names as out=, while Optuna is quiet.

    Args:
        out: a folder; or the URL of a storage, whose networks are then in the folder of its file,
            or in `runs`. None for a folder that is deleted with the workspace, or by an error.

    Raises:
        NsoptError: if nothing can be written there.
    """
    folder = None
    if isinstance(out, Workspace):
        workspace = out
    elif out is None:
        folder = Path(tempfile.mkdtemp(prefix="nsopt-"))
        workspace = Workspace(sqlite_url(folder / STUDY_FILE), folder, temporary=True)
        weakref.finalize(workspace, shutil.rmtree, folder, ignore_errors=True)
    else:
        url = str(out) if "://" in str(out) else None
        file = storage_file(url) if url else Path(out) / STUDY_FILE
        parent = (file.parent if file else RUNS).absolute()
        check_writable(parent if url else out, "out=")
        workspace = Workspace(url or sqlite_url(parent / STUDY_FILE), parent)
    try:
        with quiet_optuna():
            yield workspace
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
