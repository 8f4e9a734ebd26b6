"""Several processes on one device: they compute at the same time, and pause while one measures."""

import fcntl
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

_LONGEST_WAIT = 60.0
_POLL_SECONDS = 0.005
_SILENT_SECONDS = 2.0
_PAUSE = 0.2  # seconds between two trainings or scores of a process, at most


class DeviceLock:
    """A shared and an exclusive lock on a device, by files. A process frees its locks as it ends.

    Create it before you change torch's number of threads: measurements use the number at creation.
    Checking whether another process waits takes 2 microseconds; with filelock's readers-writer lock
    it takes 8 ms, as long as a small batch.

    Args:
        folder: folder of the lock files.
        device: name of the device, the same in all processes.
        tell: receives a message when this process waits for the measurement of another one.
    """

    def __init__(
        self, folder: Path, device: str, tell: Callable[[str], None] = lambda message: None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{platform.node()}-{device}"
        self._threads = torch.get_num_threads()
        self._tell = tell
        self._turn_of_others_ends = 0.0
        self._gate = (folder / f"{name}.gate").open("a+b", buffering=0)
        self._room = (folder / f"{name}.room").open("ab")

    def close(self) -> None:
        """Close the lock files. They stay for other processes."""
        self._gate.close()
        self._room.close()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Compute while other processes compute; those that want to measure wait for `give_way`."""
        self._enter()
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def is_wanted(self) -> bool:
        """Return whether another process wants to measure: it then holds the gate."""
        return _is_held(self._gate, fcntl.LOCK_SH)

    def give_way(self) -> None:
        """Let waiting processes measure. Call this inside `shared`, with nothing running."""
        fcntl.flock(self._room, fcntl.LOCK_UN)
        self._enter()

    def _enter(self) -> None:
        self._pass_gate(fcntl.LOCK_SH)
        try:
            fcntl.flock(self._room, fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _pass_gate(self, kind: int) -> None:
        """Wait until the gate can be locked; after a while, report the process that measures."""
        gate = self._gate.fileno()
        if not _lock_within(_SILENT_SECONDS, gate, kind):
            self._gate.seek(0)
            holder = self._gate.read().decode()
            self._tell(f"waiting for another nsopt process that measures latency (PID {holder})")
            fcntl.flock(gate, kind)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Measure with all threads while other processes wait. Do not call this inside `shared`.

        The gate keeps other processes from starting to compute. The room is free when all that were
        computing have given way; after a minute this process no longer waits for them, because one
        may be suspended. It waits for other measurements as long as they take. Before its next one,
        processes that compute get as much time as its last one took, at most a minute.
        """
        self._leave_others_their_turn()
        threads, start = torch.get_num_threads(), math.inf
        torch.set_num_threads(self._threads)
        try:
            self._pass_gate(fcntl.LOCK_EX)
            self._gate.truncate(0)
            self._gate.write(str(os.getpid()).encode())
            _lock_within(_LONGEST_WAIT, self._room.fileno(), fcntl.LOCK_EX)
            start = time.monotonic()
            yield
        finally:
            for lock in (self._room, self._gate):
                fcntl.flock(lock, fcntl.LOCK_UN)
            torch.set_num_threads(threads)
            now = time.monotonic()
            self._turn_of_others_ends = now + min(now - start, _LONGEST_WAIT)

    def _leave_others_their_turn(self) -> None:
        """Wait while other processes compute, until their turn ends."""
        last_seen = time.monotonic()
        while (now := time.monotonic()) < self._turn_of_others_ends:
            if _is_held(self._room, fcntl.LOCK_EX):
                last_seen = now
            elif now - last_seen > _PAUSE:
                break
            time.sleep(_POLL_SECONDS)


def _is_held(lock: IO[bytes], kind: int) -> bool:
    """Return whether another process holds a file so that it cannot be locked in this way."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(lock, fcntl.LOCK_UN)
    return False


def _lock_within(seconds: float, lock: int, kind: int) -> bool:
    """Try to lock a file for some seconds; return whether this succeeded."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True
