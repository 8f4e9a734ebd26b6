"""Text and progress bars on a terminal, for commands and for long calls from Python."""

import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.segment import Segment

from nsopt.notebook import NotebookProgress
from nsopt.progress import Progress, describe_task, repeated

# Control characters, marks that change the direction of text, and surrogates, which cannot be
# encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_LOG = logging.getLogger("nsopt")
_PAUSE, _LOGGED_PAUSE = 5.0, 30.0  # seconds


def printable(text: str) -> str:
    """Return `text` without control characters: it may come from another machine."""
    return _UNPRINTABLE.sub("", text)


class PlainConsole(Console):
    """A console that interprets no markup, drops unprintable characters, and writes `?` for those
    that its stream cannot encode."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = printable(segment.text).encode(self.encoding, "replace").decode(self.encoding)
            yield segment if segment.control else segment._replace(text=text)


class LiveProgress(Progress):
    """A `Progress` drawn with Rich: one bar for the whole, one for the current task."""

    def __init__(self, bars: RichBars, reword: Callable[[str], str] = str) -> None:
        self._bars, self._reword = bars, reword
        self._whole = bars.add_task("", total=None, detail="", visible=False)
        self._piece = bars.add_task("preparing", total=None, detail="")

    def overall(self, done: int, total: int) -> None:
        self._bars.update(
            self._whole,
            description=describe_task(done, total),
            completed=done,
            total=total,
            visible=total > 0,
        )

    def start(self, task: str, total: int) -> None:
        self._bars.reset(self._piece, total=total, description=escape(task), detail="")

    def advance(self, detail: str = "") -> None:
        self._bars.update(self._piece, advance=1, detail=escape(detail))

    def message(self, text: str) -> None:
        self._bars.console.print(self._reword(text))


class LineProgress(Progress):
    """A `Progress` without a terminal: writes every message, phases, and a step now and then.

    Args:
        write: writes a line of text.
        steps: whether to write phases and steps; a process that another one started writes only
            messages.
        pause: seconds after a line before the next phase or step is written.
        warn: writes a warning; by default `write`.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        steps: bool = True,
        pause: float = _PAUSE,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._write, self._steps, self._pause, self._warn = write, steps, pause, warn or write
        self._whole = ""
        self._task, self._done, self._total = "", 0, 0
        self._last_line = time.monotonic()

    def overall(self, done: int, total: int) -> None:
        self._whole = f"{describe_task(done, total)}, " if total else ""

    def start(self, task: str, total: int) -> None:
        self._task, self._done, self._total = task, 0, total
        self._write_if_due(f"{self._whole}{task}")

    def advance(self, detail: str = "") -> None:
        self._done += 1
        step = f"{self._whole}{self._task}: {self._done} of {self._total}"
        self._write_if_due(f"{step}, {detail}" if detail else step)

    def message(self, text: str) -> None:
        self._write(printable(text))
        self._last_line = time.monotonic()

    def warning(self, text: str) -> None:
        self._warn(printable(text))
        self._last_line = time.monotonic()

    def repeating(self, pause: float = _LOGGED_PAUSE) -> AbstractContextManager[None]:
        """Write the step that runs whenever `pause` seconds pass, until the block ends."""

        def repeat() -> None:
            self._write_if_due(f"{self._whole}{self._task}: {self._done} of {self._total}")

        return repeated(repeat, pause)

    def _write_if_due(self, text: str) -> None:
        if self._steps and self._task and time.monotonic() - self._last_line > self._pause:
            self.message(text)


@contextmanager
def show_bars(console: PlainConsole, reword: Callable[[str], str] = str) -> Iterator[LiveProgress]:
    """Show progress on a terminal until the block ends; messages stay on the screen.

    Args:
        console: where to draw.
        reword: changes every message.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[detail]}"),
    )
    with RichBars(*columns, console=console, transient=True) as bars:
        yield LiveProgress(bars, reword)


@contextmanager
def show_progress(progress: Progress | None) -> Iterator[Progress]:
    """Yield `progress`, or by default bars on a terminal or in Jupyter.

    Elsewhere messages, phases and a step every half minute go to stderr; in a program that set up
    `logging`, to the logger `nsopt`, at level INFO, and warnings at level WARNING.
    """
    console = PlainConsole()
    if progress is not None:
        yield progress
        return
    if console.is_jupyter:
        from IPython import display  # noqa: PLC0415  (only notebooks have it)

        show: Any = display.display  # untyped
        bar = NotebookProgress(show({"text/plain": ""}, raw=True, display_id=True))
        yield bar
        bar.finish()
        return
    if not console.is_terminal:
        if _LOG.hasHandlers():
            lines = LineProgress(_LOG.info, pause=_LOGGED_PAUSE, warn=_LOG.warning)
        else:
            lines = LineProgress(partial(print, file=sys.stderr), pause=_LOGGED_PAUSE)
        with lines.repeating():
            yield lines
        return
    with show_bars(console) as bars:
        yield bars
