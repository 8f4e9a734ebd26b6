"""One process of a machine at a time."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def one_at_a_time(
    folder: Path, what: Path, before_waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Let one process at a time do what is named by the path `what`.

    folder: where lock files lie and stay. A process that dies makes room for the next.
    `before_waiting` is called if another one is inside.
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
    """Whether a process is inside `one_at_a_time` now."""
    try:
        with _lock(folder, what).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _lock(folder: Path, what: Path) -> FileLock:
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(what.resolve()).encode()).hexdigest()[:32]
    return FileLock(folder / f"{name}.lock")
