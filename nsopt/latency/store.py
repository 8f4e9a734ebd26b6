"""Where measurements, and the widths that they chose, are remembered."""

from collections.abc import Sequence

from nsopt.latency.bisection import Widths
from nsopt.latency.sittings import Latency


class Store:
    """Remembers what was timed, and the widths that were chosen: here in this process alone.

    Attributes:
        name: names it for people, and in locks; empty if no other process uses it.
    """

    name = ""

    def __init__(self) -> None:
        self._timings: list[Latency] = []
        self._choices: dict[str, Widths] = {}

    def read_timings(self, widths: Widths) -> Sequence[Latency]:
        """Return the measurements of a network, under any conditions, in order of time."""
        return [timing for timing in self._timings if timing.widths == widths]

    def write_timing(self, latency: Latency) -> None:
        self._timings.append(latency)

    def read_choice(self, asked: Sequence[object]) -> Widths | None:
        """Return the widths that were chosen for a key (`MeasuredBudget.identify`)."""
        return self._choices.get(repr(asked))

    def write_choice(self, asked: Sequence[object], widths: Widths) -> None:
        self._choices[repr(asked)] = widths
