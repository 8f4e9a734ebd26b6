"""Optuna's journal: a file to which all processes append, on a network file system, too."""

import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from nsopt.errors import NsoptError
from nsopt.storage.heartbeats import AttributeHeartbeat

_LOCK_SECONDS = 30
_BEGINNING = b'{"op_code":'


def open_journal(path: Path) -> "JournaledStorage":
    """The journal in a file, made if it is not there yet; NsoptError for a file that is none."""
    path = path.resolve()  # the lock is a link, which would not find a relative one
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not _begins_as_journals_do(path):
        raise NsoptError(f"{path} is no journal of Optuna")
    try:
        return JournaledStorage(JournalFileBackend(str(path), _WholeLines(path)))
    except (AssertionError, KeyError, TypeError, ValueError):
        raise NsoptError(f"the journal {path} is damaged: restore it from a copy") from None


def _begins_as_journals_do(path: Path) -> bool:
    """True also for an empty file, and for one whose first line was never finished."""
    with path.open("rb") as file:
        return _BEGINNING.startswith(file.read(len(_BEGINNING)))


class JournaledStorage(AttributeHeartbeat, JournalStorage):
    """A journal with heartbeats, which it lacks. A process that dies while it writes keeps the
    others from writing until they break its lock."""

    longest_lock = _LOCK_SECONDS


class _WholeLines(JournalFileSymlinkLock):
    """Optuna's lock of a journal, whose holder first removes a line without an end.

    A full disk or a power cut leaves one. The next line would become a part of it, and the journal
    could not be read any more.
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
