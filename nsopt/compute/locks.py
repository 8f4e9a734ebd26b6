"""Locks that let one process of a machine do something at a time."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def hold_lock(
    folder: Path, what: Path, before_waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Let one process at a time do what the path `what` names. A dead process frees the lock.

    folder: of the lock files, which stay; before_waiting: called if another process has the lock.
    """
    lock = _lock(folder, what)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        before_waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_being_done(folder: Path, what: Path) -> bool:
    """Return whether a process is inside `hold_lock` now."""
    try:
        with _lock(folder, what).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _lock(folder: Path, what: Path) -> FileLock:
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(what.resolve()).encode()).hexdigest()[:32]
    return FileLock(folder / f"{name}.lock")
