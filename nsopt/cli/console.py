"""What the command line shows: progress, tables, and errors as one line."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichBars

from nsopt.errors import NsoptError

_USER_ERROR = 2
_INTERRUPTED = 130

console = Console()


def tell_what_is_fixed(summary: str) -> None:
    """Print what an architecture says of its fixed parts, if it has any."""
    if summary:
        console.print(summary, highlight=False, markup=False)


class LiveProgress:
    """A `Progress` drawn with Rich: one bar for the current task, messages above it."""

    def __init__(self, bars: RichBars) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None, detail="")

    def start(self, task: str, total: int) -> None:
        self._bars.reset(self._task, total=total, description=escape(task), detail="")

    def advance(self, detail: str = "") -> None:
        self._bars.update(self._task, advance=1, detail=escape(detail))

    def message(self, text: str) -> None:
        self._bars.console.print(escape(text), highlight=False)


@contextmanager
def live_progress() -> Iterator[LiveProgress]:
    """A progress display that disappears at the end; its messages stay."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[detail]}"),
    )
    with RichBars(*columns, console=console, transient=True) as bars:
        yield LiveProgress(bars)


@contextmanager
def user_errors() -> Iterator[None]:
    """Print what a user can mend as one line on stderr, and exit with 2.

    Ctrl-C ends the process at once, as a kill would: studies survive that anywhere, while a
    KeyboardInterrupt between two statements of a library may not be survived.
    """
    signal.signal(signal.SIGINT, _leave_at_once)
    try:
        yield
    except NsoptError as error:
        _stop(f"error: {error}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _stop("error: the disk is full: make room and run the same command again")


def _stop(message: str) -> NoReturn:
    print(" ".join(message.split()), file=sys.stderr)
    raise SystemExit(_USER_ERROR) from None


def _leave_at_once(signum: int, frame: FrameType | None) -> NoReturn:
    console.show_cursor()
    sys.stdout.flush()
    os.write(2, b"\ninterrupted: the same command continues where this one stopped\n")
    os._exit(_INTERRUPTED)
