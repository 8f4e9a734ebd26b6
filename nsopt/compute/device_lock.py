"""Several processes on one device: they compute at once, and fall silent while one measures."""

import fcntl
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_LONGEST_WAIT = 60.0
_POLL_SECONDS = 0.005


class DeviceLock:
    """A shared and an exclusive lock on a device, by files; they end with their process.

    Make it before the number of torch's threads is changed: a measurement uses the number of
    that moment. A turn takes 3 microseconds; filelock's lock for readers and writers takes 8 ms, as
    long as a small batch. Args: folder: of the lock files; device: what all processes call it.
    """

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{platform.node()}-{device}"
        self._threads = torch.get_num_threads()
        self._gate = (folder / f"{name}.gate").open("ab")
        self._room = (folder / f"{name}.room").open("ab")

    def close(self) -> None:
        """Leave; the lock files stay for others."""
        self._gate.close()
        self._room.close()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Compute beside other processes, but for those that measure."""
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        fcntl.flock(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Measure with all threads while the others wait before their next batch.

        A process that was stopped while it computed is waited for a minute, then no longer.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            for lock in (self._gate, self._room):
                _wait_for(lock.fileno())
            yield
        finally:
            for lock in (self._room, self._gate):
                fcntl.flock(lock, fcntl.LOCK_UN)
            torch.set_num_threads(threads)


def _wait_for(lock: int) -> None:
    deadline = time.monotonic() + _LONGEST_WAIT
    while time.monotonic() < deadline:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_POLL_SECONDS)
        else:
            return
