"""The start of the `nsopt` command, with nothing that is slow to import: Ctrl-C already works."""

import signal
import sys
from collections.abc import Sequence
from functools import partial

from nsopt.cli.interruption import leave_at_once

_KEEPING = {"study", "compress", "search", "tune", "worker"}  # they search or train


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. A user error prints one line on stderr and exits with code 2.

    Ctrl-C ends the process at once, like a kill. A study survives a kill at any point; a
    KeyboardInterrupt in the middle of a library call could corrupt it.
    """
    words = sys.argv[1:] if arguments is None else arguments
    keeps_results = bool({*words[:1]} & _KEEPING)
    signal.signal(signal.SIGINT, partial(leave_at_once, keeps_results))
    from nsopt.cli.commands import run

    run(words)
