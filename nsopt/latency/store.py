"""Where timings, and the widths that they chose, are remembered."""

from collections.abc import Sequence

from nsopt.latency.bisection import Widths
from nsopt.latency.record import Latency


class Store:
    """Remembers what was timed, and the widths that were chosen: here in this process alone."""

    def __init__(self) -> None:
        self._latencies: list[Latency] = []
        self._widths: dict[str, Widths] = {}

    def read(self) -> Sequence[Latency]:
        """Return the latencies of all networks, under any conditions."""
        return self._latencies

    def write(self, latency: Latency) -> None:
        self._latencies.append(latency)

    def read_widths(self, budget: Sequence[object]) -> Widths | None:
        """Return the widths that were chosen for a key (`MeasuredBudget.identify`)."""
        return self._widths.get(repr(budget))

    def write_widths(self, budget: Sequence[object], widths: Widths) -> None:
        self._widths[repr(budget)] = widths
