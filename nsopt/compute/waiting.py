"""How long this process has waited for its turn on the processors."""

import contextlib
from pathlib import Path

_TASKS = Path("/proc/self/task")


def seconds_waited() -> float | None:
    """Of all threads together that are there now, as Linux counts it; None on other systems."""
    if not _TASKS.is_dir():
        return None
    nanoseconds = 0
    for task in _TASKS.iterdir():
        with contextlib.suppress(OSError):  # it may have ended
            nanoseconds += int((task / "schedstat").read_text().split()[1])
    return nanoseconds / 1e9
