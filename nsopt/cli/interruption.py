"""Ctrl-C: what a command does when it is interrupted."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # the exit status
REST = (
    "finished searches and trainings are kept, and the running one except its last half minute: "
    "the same command continues"
)


def leave_at_once(keeps_results: bool, signum: int, frame: FrameType | None) -> NoReturn:
    sys.stdout.flush()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        os.write(1, b"\x1b[?25h")  # show the cursor again
    rest = f": {REST}" if keeps_results else ""
    os.write(2, f"\ninterrupted{rest}\n".encode())
    os._exit(INTERRUPTED)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt in a block that can end with what it has so far."""
    leave = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if callable(leave):
            leave(signal.SIGINT, None)
        raise
    finally:
        signal.signal(signal.SIGINT, leave)
