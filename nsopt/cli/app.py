"""The start of the `nsopt` command, with nothing that is slow to import: Ctrl-C already works."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import NoReturn

_INTERRUPTED = 130
_SECONDS_UNKEPT = 30.0  # a search or a training is kept from then on
_KEEPING = {"study", "compress", "search", "tune", "worker"}  # they search or train


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. A user error prints one line on stderr and exits with code 2.

    Ctrl-C ends the process at once, like a kill. A study survives a kill at any point; a
    KeyboardInterrupt in the middle of a library call could corrupt it.
    """
    words = sys.argv[1:] if arguments is None else arguments
    keeps_results = bool({*words[:1]} & _KEEPING)
    signal.signal(signal.SIGINT, partial(_leave_at_once, keeps_results, time.monotonic()))
    from nsopt.cli.commands import run

    run(words)


def _leave_at_once(
    keeps_results: bool, began: float, signum: int, frame: FrameType | None
) -> NoReturn:
    sys.stdout.flush()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        os.write(1, b"\x1b[?25h")  # show the cursor again
    rest = f": {describe_rest(time.monotonic() - began)}" if keeps_results else ""
    os.write(2, f"\ninterrupted{rest}\n".encode())
    os._exit(_INTERRUPTED)


def describe_rest(seconds: float) -> str:
    """Return a sentence on what is kept if a command is interrupted after `seconds`."""
    if seconds < _SECONDS_UNKEPT:
        return (
            "finished searches and trainings are kept, but nothing that began in this first half "
            "minute: the same command starts it again"
        )
    return (
        "finished searches and trainings are kept, and the running one except its last half "
        "minute: the same command continues there"
    )
