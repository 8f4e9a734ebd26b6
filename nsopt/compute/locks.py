"""Locks between the processes of a machine."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nsopt.files import cache_folder


@contextmanager
def hold_lock(
    what: Path, before_waiting: Callable[[], None] = lambda: None, seconds: float = -1
) -> Iterator[None]:
    """Hold a lock inside the block, so that one process at a time runs it.

    A process that dies frees the lock. Lock files are in the cache folder and stay there.

    Args:
        before_waiting: called if another process holds the lock.
        seconds: how long to wait; then the block runs without the lock. -1 waits without a limit.
    """
    lock = _make_lock(what)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        before_waiting()
        with suppress(Timeout):
            lock.acquire(timeout=seconds)
    try:
        yield
    finally:
        lock.release()


def is_being_done(what: Path) -> bool:
    try:
        with _make_lock(what).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _make_lock(what: Path) -> FileLock:
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(what.resolve()).encode()).hexdigest()[:32]
    return FileLock(folder / f"{name}.lock")
