"""Commands of nsopt in forked processes, which are killed (SIGKILL) at chosen moments.

They share the imports of the process that starts them, so that a command begins at once, and so do
their workers: `run` puts a forked one in the place of the process that `--workers 2` starts.
"""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsopt.cli.app import main
from nsopt.session import processes

_fork = multiprocessing.get_context("fork")
_HALF = b"PK\x03\x04 the rest was never written"
_WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Kill:
    """The moment at which one process of a command is killed.

    worker: whether its worker is, instead of the command itself; inside: the folder of the files
    that it is then writing, None for any moment; count: so many times has it opened or renamed a
    file there, of which it leaves half; seconds: after its start, where `inside` is None.
    """

    worker: bool
    inside: str | None = None
    count: int = 0
    seconds: float = 0.0

    def prepare(self, out: Path) -> None:
        """Let this process be killed at the moment."""
        if self.inside is None:
            threading.Thread(target=_kill_after, args=(self.seconds,), daemon=True).start()
        else:
            sys.addaudithook(_Tracer(str(out / self.inside), self.count))


class _Tracer:
    """An audit hook that ends the process at the `left`th write of a file below `folder`."""

    def __init__(self, folder: str, left: int) -> None:
        self._folder, self._left = folder, left

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename") or not str(arguments[0]).startswith(self._folder):
            return
        if event == "open" and not (arguments[2] or 0) & _WRITING:
            return
        self._left -= 1
        if self._left == 0:
            if event == "open":
                self._leave_half(str(arguments[0]))
            _die()

    @staticmethod
    def _leave_half(path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, _HALF)


def run(arguments: Sequence[str], out: Path, log: Path, kill: Kill | None, limit: float) -> int:
    """Run a command with one worker; its exit code, negative for the signal that ended it.

    out: the folder of its results; log: gets what it prints; limit: seconds until it is given up,
    which raises TimeoutError.
    """
    process = _fork.Process(target=_command, args=(arguments, out, log, kill))
    process.start()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{' '.join(arguments)} still runs after {limit:.0f} s: see {log}")
    return process.exitcode


def in_fork(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a forked process, which opens no storage in this one."""
    here, there = _fork.Pipe()
    process = _fork.Process(target=lambda: there.send(function(*arguments)))
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def _command(arguments: Sequence[str], out: Path, log: Path, kill: Kill | None) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    worker = _ForkedWorker(out, kill if kill and kill.worker else None)
    processes._start = worker.begin  # type: ignore[assignment]
    if kill and not kill.worker:
        kill.prepare(out)
    main(arguments)


class _ForkedWorker:
    """Stands for the `Popen` of a worker, which is forked at once and waits for its arguments:
    later this process has threads and an open storage, which no fork should inherit."""

    def __init__(self, out: Path, kill: Kill | None) -> None:
        self._order, order = socket.socketpair()
        stdin, ours = os.pipe()
        theirs, stdout = os.pipe()
        self.stdin, self.stdout = os.fdopen(ours, "w"), os.fdopen(theirs)
        arguments = (order, stdin, stdout, out, kill)
        self._process = _fork.Process(target=self._serve, args=arguments, daemon=True)
        self._process.start()
        self._polling = threading.Lock()
        order.close()
        os.close(stdin)
        os.close(stdout)

    def _serve(
        self, order: socket.socket, stdin: int, stdout: int, out: Path, kill: Kill | None
    ) -> None:
        """In the worker: run the command that is ordered, if one is."""
        for inherited in (self._order, self.stdin, self.stdout):
            inherited.close()
        for source, target in ((stdin, 0), (stdout, 1), (stdout, 2)):
            os.dup2(source, target)
        os.close(stdin)
        os.close(stdout)
        ordered = order.recv(2**20)
        if not ordered:
            return
        arguments, environment = json.loads(ordered)
        os.environ.update(environment)
        if kill:
            kill.prepare(out)
        main(["worker", *arguments])

    def begin(self, arguments: Sequence[str], environment: Mapping[str, str]) -> "_ForkedWorker":
        """As `processes._start`, once a command."""
        self._order.send(json.dumps([list(arguments), dict(environment)]).encode())
        return self

    @property
    def returncode(self) -> int | None:
        with self._polling:
            return self._process.exitcode

    def wait(self, timeout: float = float("inf")) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.returncode) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(0.02)
        return code

    def terminate(self) -> None:
        self._process.terminate()


def _kill_after(seconds: float) -> None:
    time.sleep(seconds)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
