"""How long measurements may take altogether."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST = 300.0  # seconds that all measurements of a command may take


class Allowance:
    """The seconds that measurements may take, on the clock on the wall.

    Args:
        seconds: of all measurements together.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._seconds = seconds

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._seconds)

    def share(self) -> Callable[[], bool]:
        """Return a function that says whether half of the time that is left now is over.

        Every question takes at most this half, so that later ones get their part.
        """
        end = self._seconds / 2
        return lambda: self._seconds <= end < math.inf

    @contextmanager
    def spending(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds -= time.monotonic() - start
