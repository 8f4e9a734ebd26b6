"""How the command line prints: progress, text, and errors as one line."""

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.segment import Segment
from rich.table import Table

from nsopt.errors import NsoptError

_USER_ERROR = 2
_INTERRUPTED = 130
_SECONDS_BETWEEN_LINES = 5.0
_NARROW = 80  # columns of a terminal
_UNLIMITED = 10_000

# Control characters, marks that change the direction of text, and surrogates, which cannot be
# encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return `text` without control characters: it may come from another machine."""
    return _UNPRINTABLE.sub("", text)


class PlainConsole(Console):
    """A console that interprets no markup and drops unprintable characters."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


console = PlainConsole()


def is_narrow() -> bool:
    """Return whether the terminal is too narrow for all columns of a table."""
    return console.width < _NARROW


def fits(table: Table) -> bool:
    """Return whether the terminal shows a table without wrapping or cutting cells."""
    unlimited = console.options.update(width=_UNLIMITED)
    return console.measure(table, options=unlimited).maximum <= console.width


def tell_what_is_fixed(summary: str) -> None:
    """Print an architecture's summary, if it has one: which layers keep their widths."""
    if summary:
        console.print(summary)


class LiveProgress:
    """A `Progress` drawn with Rich: one bar for the whole, one for the current task."""

    def __init__(self, bars: RichBars) -> None:
        self._bars = bars
        self._whole = bars.add_task("", total=None, detail="", visible=False)
        self._piece = bars.add_task("preparing", total=None, detail="")

    def overall(self, done: int, total: int) -> None:
        self._bars.update(
            self._whole,
            description=_format_point(done, total),
            completed=done,
            total=total,
            visible=total > 0,
        )

    def start(self, task: str, total: int) -> None:
        self._bars.reset(self._piece, total=total, description=escape(task), detail="")

    def advance(self, detail: str = "") -> None:
        self._bars.update(self._piece, advance=1, detail=escape(detail))

    def message(self, text: str) -> None:
        self._bars.console.print(text)


class LineProgress:
    """A `Progress` for a pipe or a file: prints every message, and a step every few seconds.

    steps: whether to print steps; a process that another one started prints only messages.
    """

    def __init__(self, steps: bool) -> None:
        self._steps = steps
        self._point = ""
        self._task, self._done, self._total = "", 0, 0
        self._last_line = time.monotonic()

    def overall(self, done: int, total: int) -> None:
        self._point = f"{_format_point(done, total)}, " if total else ""

    def start(self, task: str, total: int) -> None:
        self._task, self._done, self._total = task, 0, total
        self._last_line = time.monotonic()  # steps done before an interruption print no line

    def advance(self, detail: str = "") -> None:
        self._done += 1
        if self._steps and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            step = f"{self._point}{self._task}: {self._done} of {self._total}"
            self.message(f"{step}, {detail}" if detail else step)

    def message(self, text: str) -> None:
        print(printable(text), flush=True)
        self._last_line = time.monotonic()


def _format_point(done: int, total: int) -> str:
    return f"point {min(done + 1, total)} of {total}"


@contextmanager
def live_progress(for_another: bool = False) -> Iterator[LiveProgress | LineProgress]:
    """Show progress until the block ends; messages stay on the screen.

    for_another: whether another process started this one and prints its messages.
    """
    if for_another or not console.is_terminal:
        yield LineProgress(steps=not for_another)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[detail]}"),
    )
    with RichBars(*columns, console=console, transient=True) as bars:
        yield LiveProgress(bars)


@contextmanager
def user_errors() -> Iterator[None]:
    """Print an error that the user can fix as one line on stderr, and exit with code 2.

    Ctrl-C ends the process at once, like a kill. A study survives a kill at any point; a
    KeyboardInterrupt in the middle of a library call could corrupt it.
    """
    signal.signal(signal.SIGINT, _leave_at_once)
    try:
        yield
    except NsoptError as error:
        _stop(f"error: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _stop("error: the disk is full: make room and run the same command again")


def _stop(message: str) -> NoReturn:
    print(printable(" ".join(message.split())), file=sys.stderr)
    raise SystemExit(_USER_ERROR) from None


def _leave_at_once(signum: int, frame: FrameType | None) -> NoReturn:
    console.show_cursor()
    sys.stdout.flush()
    os.write(2, b"\ninterrupted: the same command continues where this one stopped\n")
    os._exit(_INTERRUPTED)
