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
    that moment. To ask whether somebody waits takes 2 microseconds; filelock's lock for readers and
    writers takes 8 ms, as long as a small batch. Args: folder: of the lock files; device: what all
    processes call it.
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
        """Compute beside other processes; those that want to measure wait for `give_way`."""
        self._enter()
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def is_wanted(self) -> bool:
        """Whether another process wants to measure, and holds the gate for it."""
        try:
            fcntl.flock(self._gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        return False

    def give_way(self) -> None:
        """Inside `shared`: let those measure that want to. Nothing of this process may run."""
        fcntl.flock(self._room, fcntl.LOCK_UN)
        self._enter()

    def _enter(self) -> None:
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        try:
            fcntl.flock(self._room, fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Measure with all threads while the others wait; not inside `shared`.

        The gate says that this process wants to measure and keeps others from beginning to compute;
        the room is free when those who computed have given way. One that was stopped while it
        computed is waited for a minute, then no longer; another measurement as long as it takes.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            _wait_for(self._room.fileno())
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
