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
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(what.resolve()).encode()).hexdigest()[:32]
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        before_waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
