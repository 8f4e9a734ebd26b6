"""What the command line shows: progress, tables, and errors as one line."""

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

# What steers a terminal or turns the direction of text; and halves of characters, which no stream
# can write.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """`text` without characters that do something else than be read: it may come from a storage, a
    file or another machine."""
    return _UNPRINTABLE.sub("", text)


class PlainConsole(Console):
    """Prints text as it stands, but for unprintable characters; only `style` changes its looks."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


console = PlainConsole()


def is_narrow() -> bool:
    """Whether tables must do with few columns."""
    return console.width < _NARROW


def fits(table: Table) -> bool:
    """Whether a table needs no line twice and leaves nothing out."""
    unlimited = console.options.update(width=_UNLIMITED)
    return console.measure(table, options=unlimited).maximum <= console.width


def tell_what_is_fixed(summary: str) -> None:
    """Print what an architecture says of its fixed parts, if it has any."""
    if summary:
        console.print(summary)


class LiveProgress:
    """A `Progress` drawn with Rich: a bar for the whole and one for its present piece, messages
    above them."""

    def __init__(self, bars: RichBars) -> None:
        self._bars = bars
        self._whole = bars.add_task("", total=None, detail="", visible=False)
        self._piece = bars.add_task("preparing", total=None, detail="")

    def overall(self, done: int, total: int) -> None:
        self._bars.update(
            self._whole,
            description=_present(done, total),
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
    """A `Progress` for a pipe or a file: a line for a step now and then, and every message.

    steps: whether steps are told; a process that works for another one tells messages alone.
    """

    def __init__(self, steps: bool) -> None:
        self._steps = steps
        self._point = ""
        self._task, self._done, self._total = "", 0, 0
        self._told = time.monotonic()

    def overall(self, done: int, total: int) -> None:
        self._point = f"{_present(done, total)}, " if total else ""

    def start(self, task: str, total: int) -> None:
        self._task, self._done, self._total = task, 0, total
        self._told = time.monotonic()  # what a continued task has done is not worth a line

    def advance(self, detail: str = "") -> None:
        self._done += 1
        if self._steps and time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            step = f"{self._point}{self._task}: {self._done} of {self._total}"
            self.message(f"{step}, {detail}" if detail else step)

    def message(self, text: str) -> None:
        print(printable(text), flush=True)
        self._told = time.monotonic()


def _present(done: int, total: int) -> str:
    return f"point {min(done + 1, total)} of {total}"


@contextmanager
def live_progress(for_another: bool = False) -> Iterator[LiveProgress | LineProgress]:
    """A progress display that disappears at the end; its messages stay.

    for_another: what is printed becomes messages of another process.
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
