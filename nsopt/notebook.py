"""What Jupyter notebooks show: tables of results, and progress that changes in place."""

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nsopt.progress import Progress, describe_task

_SECONDS_BETWEEN = 0.2


def make_html_table(rows: Sequence[Mapping[str, object]], caption: str) -> str:
    """Return rows of the same columns as an HTML table, everything escaped; a wide one scrolls."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    cells = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row.values()) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<p>{escape(caption)}</p><div style="overflow-x: auto">{table}</div>'


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
        if time.monotonic() > self._shown + _SECONDS_BETWEEN or self._done == self._total:
            self._show(detail)

    def message(self, text: str) -> None:
        print(text)

    def finish(self) -> None:
        """Remove the bar."""
        self._handle.update({"text/plain": ""}, raw=True)

    def _show(self, detail: str = "") -> None:
        text = f"{self._whole}{self._task} {self._done}/{self._total} {detail}"
        bar = f'<progress value="{self._done}" max="{max(self._total, 1)}"></progress>'
        self._handle.update({"text/plain": text, "text/html": f"{bar} {escape(text)}"}, raw=True)
        self._shown = time.monotonic()
