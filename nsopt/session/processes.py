"""Worker processes on this machine, which end with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread

from nsopt.progress import Progress

WORKER = (sys.executable, "-m", "nsopt", "worker")
STORAGE_VARIABLE = "NSOPT_STORAGE"
SECONDS_TO_END = 30.0


@contextmanager
def run_local_workers(
    options: Sequence[Sequence[str]], storage: str, progress: Progress
) -> Iterator[None]:
    """Run `nsopt worker` once for each of `options`, until all have ended.

    Their output becomes messages. If the code inside the block fails, they are terminated. If this
    process is killed, they end by `end_with_starter`. They get the storage's URL through the
    environment, where other users cannot read its password.
    """
    environment = os.environ | {STORAGE_VARIABLE: storage}
    processes = [_start(arguments, environment) for arguments in options]
    threads = [Thread(target=_forward, args=(p, progress), daemon=True) for p in processes]
    for thread in threads:
        thread.start()
    try:
        yield
        _wait(processes, progress)
    finally:
        for process in processes:
            process.terminate()
            assert process.stdin is not None
            process.stdin.close()
        for thread in threads:
            thread.join(SECONDS_TO_END)


def _wait(processes: Sequence["subprocess.Popen[str]"], progress: Progress) -> None:
    """Wait until the workers end, which they do soon when nothing is left.

    A worker that is busy longer trains what another process has done already; it may be terminated.
    """
    deadline = time.monotonic() + SECONDS_TO_END
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            progress.message("nsopt ends a worker: other processes have already done its work")


def _start(arguments: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*WORKER, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _forward(process: "subprocess.Popen[str]", progress: Progress) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            progress.message(line.rstrip())
    if process.wait() < 0 and process.returncode != -signal.SIGTERM:
        progress.warning(
            f"a worker was killed (signal {-process.returncode}): other processes run its trials"
        )


def end_with_starter() -> None:
    """End this process at once when the process that started it has ended.

    `run_local_workers` holds the other end of standard input and writes nothing. The system closes
    it when that process ends, for any reason.
    """

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    Thread(target=wait, daemon=True).start()
