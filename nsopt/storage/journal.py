"""Optuna's journal storage: a file to which all processes append, also on network file systems."""

import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from nsopt.errors import NsoptError
from nsopt.storage.heartbeats import AttributeHeartbeat

_LOCK_SECONDS = 30
_BEGINNING = b'{"op_code":'


def open_journal(path: Path) -> "JournaledStorage":
    """Open a journal, or create it. Raises NsoptError if the file is not a journal."""
    path = path.resolve()  # the lock is a symbolic link, which a relative path would break
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not _looks_like_a_journal(path):
        raise NsoptError(f"{path} is not an Optuna journal: give another file")
    try:
        return JournaledStorage(JournalFileBackend(str(path), _WholeLines(path)))
    except (AssertionError, KeyError, TypeError, ValueError):
        raise NsoptError(f"the journal {path} is damaged: restore it from a copy") from None


def _looks_like_a_journal(path: Path) -> bool:
    """Return whether a file begins like a journal, is empty, or has an unfinished first line."""
    with path.open("rb") as file:
        return _BEGINNING.startswith(file.read(len(_BEGINNING)))


class JournaledStorage(AttributeHeartbeat, JournalStorage):
    """Optuna's journal storage with heartbeats.

    If a process dies while writing, the others wait until they may break its lock.
    """

    longest_lock = _LOCK_SECONDS


class _WholeLines(JournalFileSymlinkLock):
    """Optuna's lock of a journal, which also removes an unfinished last line.

    A full disk or a power failure leaves such a line. Appending to it would make the journal
    unreadable.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), grace_period=_LOCK_SECONDS)
        self._path = path

    def acquire(self) -> bool:
        super().acquire()
        try:
            _remove_unfinished_line(self._path)
        except BaseException:
            self.release()
            raise
        return True


def _remove_unfinished_line(path: Path) -> None:
    with path.open("rb+") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
