"""How long-running functions tell what they are doing, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """One task at a time: `start` names it and its number of steps, `advance` ends a step.

    `overall` tells how many points of the whole are done.
    """

    def overall(self, done: int, total: int) -> None: ...

    def start(self, task: str, total: int) -> None: ...

    def advance(self, detail: str = "") -> None: ...

    def message(self, text: str) -> None: ...


class Silent:
    """Nobody listens."""

    def overall(self, done: int, total: int) -> None:
        pass

    def start(self, task: str, total: int) -> None:
        pass

    def advance(self, detail: str = "") -> None:
        pass

    def message(self, text: str) -> None:
        pass
