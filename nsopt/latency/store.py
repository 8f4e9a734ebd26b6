"""Where timings, and the widths that they chose, are remembered."""

from collections.abc import Sequence

from nsopt.latency.bisection import Widths
from nsopt.latency.record import Latency


class Store:
    """Remembers what was timed, and the widths that were chosen: here in this process alone."""

    def __init__(self) -> None:
        self._latencies: list[Latency] = []
        self._choices: dict[str, Widths] = {}

    def read(self) -> Sequence[Latency]:
        """Return the latencies of all networks, under any conditions."""
        return self._latencies

    def write(self, latency: Latency) -> None:
        self._latencies.append(latency)

    def read_choice(self, question: Sequence[object]) -> Widths | None:
        """Return the widths that were chosen for a key (`MeasuredBudget.identify`)."""
        return self._choices.get(repr(question))

    def write_choice(self, question: Sequence[object], widths: Widths) -> None:
        self._choices[repr(question)] = widths
