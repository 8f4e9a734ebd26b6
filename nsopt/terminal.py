"""Text and progress bars on a terminal, for commands and for long calls from Python."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.segment import Segment

from nsopt.notebook import NotebookProgress
from nsopt.progress import Progress, Silent

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


class LiveProgress:
    """A `Progress` drawn with Rich: one bar for the whole, one for the current task."""

    def __init__(self, bars: RichBars) -> None:
        self._bars = bars
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
        self._bars.console.print(text)


def describe_task(done: int, total: int) -> str:
    """Return which training or score of a study runs."""
    return f"task {min(done + 1, total)} of {total}"


@contextmanager
def show_bars(console: PlainConsole) -> Iterator[LiveProgress]:
    """Show progress on a terminal until the block ends; messages stay on the screen."""
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
def show_progress(progress: Progress | None) -> Iterator[Progress]:
    """Yield `progress`, or by default bars on a terminal or in Jupyter, and silence elsewhere."""
    console = PlainConsole()
    if progress is None and console.is_jupyter:
        from IPython.display import display  # noqa: PLC0415  (only notebooks have it)

        bar = NotebookProgress(display({"text/plain": ""}, raw=True, display_id=True))
        yield bar
        bar.finish()
        return
    if progress is not None or not console.is_terminal:
        yield progress or Silent()
        return
    with show_bars(console) as bars:
        yield bars
