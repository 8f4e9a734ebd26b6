"""Worker processes on this machine, which end with the one that started them."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread

from nsopt.progress import Progress

STORAGE_VARIABLE = "NSOPT_STORAGE"
_SECONDS_TO_END = 30


@contextmanager
def local_workers(
    options: Sequence[Sequence[str]], storage: str, progress: Progress
) -> Iterator[None]:
    """Run `nsopt worker` once for each of `options`, until they end by themselves.

    What they print becomes messages. If the work here fails, they are ended. The storage's URL
    is passed in the environment, where other users cannot read its password.
    """
    environment = os.environ | {STORAGE_VARIABLE: storage}
    processes = [_start(arguments, environment) for arguments in options]
    threads = [Thread(target=_forward, args=(p, progress), daemon=True) for p in processes]
    for thread in threads:
        thread.start()
    try:
        yield
        for process in processes:
            process.wait(_SECONDS_TO_END)
    finally:
        for process in processes:
            process.terminate()
        for thread in threads:
            thread.join(_SECONDS_TO_END)


def _start(arguments: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "nsopt.cli", "worker", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _forward(process: "subprocess.Popen[str]", progress: Progress) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        progress.message(line.rstrip())
    if process.wait() < 0:
        progress.message(f"a worker was killed (signal {-process.returncode}): others take over")
