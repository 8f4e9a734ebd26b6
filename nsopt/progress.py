"""How long-running functions report progress, whoever displays it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Protocol


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
    return f"task {min(done + 1, total)} of {total}"


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
