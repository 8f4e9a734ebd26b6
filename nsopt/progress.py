"""How long work reports progress: on a terminal, in a notebook, as lines, or not at all."""

import html
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from threading import Event, Thread
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.segment import Segment

# Control characters, marks that change the direction of text, and surrogates, which cannot be
# encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_LOG = logging.getLogger("nsopt")
_NOTEBOOK_PAUSE, _PAUSE, _LOGGED_PAUSE = 0.2, 5.0, 30.0  # seconds


class Progress(Protocol):
    """Receives the progress of one task at a time.

    `start` names a task and its number of steps; `advance` ends a step; `overall` says how many
    points of the study are done. By default these methods do nothing, and `warning` calls
    `message`: subclasses override those that they display.
    """

    def overall(self, done: int, total: int) -> None:
        return

    def start(self, task: str, total: int) -> None:
        return

    def advance(self, detail: str = "") -> None:
        return

    def message(self, text: str) -> None:
        return

    def warning(self, text: str) -> None:
        self.message(text)


class Silent(Progress):
    """A `Progress` that displays nothing."""


def describe_task(done: int, total: int) -> str:
    """Return which training or score of a study runs."""
    return f"step {min(done + 1, total)} of {total}"


@contextmanager
def repeated(call: Callable[[], None], pause: float) -> Iterator[None]:
    """Call a function in a thread whenever `pause` seconds pass, until the block ends."""
    ended = Event()

    def repeat() -> None:
        while not ended.wait(pause):
            call()

    thread = Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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


class NotebookProgress(Progress):
    """A `Progress` below the cell of a notebook: a bar for the current task.

    Args:
        handle: IPython's `DisplayHandle`.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._whole, self._task, self._done, self._total = "", "preparing", 0, 0
        self._shown = 0.0

    def overall(self, done: int, total: int) -> None:
        self._whole = f"{describe_task(done, total)}: " if total else ""
        self._show()

    def start(self, task: str, total: int) -> None:
        self._task, self._done, self._total = task, 0, total
        self._show()

    def advance(self, detail: str = "") -> None:
        self._done += 1
        if time.monotonic() > self._shown + _NOTEBOOK_PAUSE or self._done == self._total:
            self._show(detail)

    def message(self, text: str) -> None:
        print(text)

    def finish(self) -> None:
        """Remove the bar."""
        self._handle.update({"text/plain": ""}, raw=True)

    def _show(self, detail: str = "") -> None:
        text = f"{self._whole}{self._task} {self._done}/{self._total} {detail}"
        bar = f'<progress value="{self._done}" max="{max(self._total, 1)}"></progress>'
        self._handle.update(
            {"text/plain": text, "text/html": f"{bar} {html.escape(text)}"}, raw=True
        )
        self._shown = time.monotonic()


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
