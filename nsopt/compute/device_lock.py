"""Several processes on one device: they compute at the same time, and pause while one measures."""

import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

LONGEST_WAIT = 30.0  # seconds that a measurement waits for other processes
_LONGEST_PAUSE = 10.0  # seconds that a computation waits for a measurement
_IMPATIENT = 0.5  # seconds that a measurement waits once another one kept it waiting too long
_LONGEST_TURN = 60.0  # seconds that others compute between two measurements, at most
_POLL_SECONDS = 0.005
_PAUSE = 0.2  # seconds between two trainings or scores of a process, at most


class DeviceLock:
    """A shared and an exclusive lock on a device, by files. A process frees its locks as it ends.

    Create it before you change torch's number of threads: measurements use the number at creation.
    Checking whether another process waits takes 2 microseconds; with filelock's readers-writer lock
    it takes 8 ms, as long as a small batch.

    Args:
        folder: folder of the lock files.
        device: name of the device, the same in all processes.
        tell: receives a message when this process measures although another one does, too.
    """

    def __init__(
        self, folder: Path, device: str, tell: Callable[[str], None] = lambda message: None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{platform.node()}-{device}"
        self._threads = torch.get_num_threads()
        self._tell = tell
        self._patience = LONGEST_WAIT
        self._longest_pause = _LONGEST_PAUSE
        self._depth = 0
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
        """Enter the room, or after some seconds compute beside a process that measures."""
        entered = _lock_within(self._longest_pause, self._gate, fcntl.LOCK_SH)
        if entered:
            _lock_within(0.0, self._room, fcntl.LOCK_SH)  # free: who measures holds the gate, too
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._longest_pause = _LONGEST_PAUSE if entered else 0.0

    @contextmanager
    def all_threads(self) -> Iterator[None]:
        """Use as many threads inside the block as a measurement does."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Measure with all threads while other processes wait. Do not call this inside `shared`.

        The gate keeps other processes from starting to compute. The room is free when all that were
        computing have given way. After half a minute this process measures beside the others, and
        says so. Before its next measurement, processes that compute get as much time as its last
        one took, at most a minute. Blocks may be nested.
        """
        if self._depth:
            yield
            return
        self._leave_others_their_turn()
        with self.all_threads():
            self._depth += 1
            self._claim()
            start = time.monotonic()
            try:
                yield
            finally:
                self._depth -= 1
                for lock in (self._room, self._gate):
                    fcntl.flock(lock, fcntl.LOCK_UN)
                now = time.monotonic()
                self._turn_of_others_ends = now + min(now - start, _LONGEST_TURN)

    def _claim(self) -> None:
        """Lock the gate, then the room; stop waiting when this process has no patience left."""
        start = time.monotonic()
        if not _lock_within(self._patience, self._gate, fcntl.LOCK_EX):
            self._gate.seek(0)
            holder = self._gate.read().decode()
            self._give_up(f"another nsopt process (PID {holder}) measures")
            return
        self._gate.truncate(0)
        self._gate.write(str(os.getpid()).encode())
        left = self._patience - (time.monotonic() - start)
        if _lock_within(left, self._room, fcntl.LOCK_EX):
            self._patience = LONGEST_WAIT
        else:
            self._give_up("another nsopt process computes")

    def _give_up(self, reason: str) -> None:
        if self._patience == LONGEST_WAIT:
            self._tell(f"{reason} and does not give way: milliseconds measured now are unreliable")
        self._patience = _IMPATIENT

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
    if not _lock_within(0.0, lock, kind):
        return True
    fcntl.flock(lock, fcntl.LOCK_UN)
    return False


def _lock_within(seconds: float, lock: IO[bytes], kind: int) -> bool:
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
