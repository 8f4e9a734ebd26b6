"""How long this process has waited for its turn on the processors."""

import contextlib
import math
from pathlib import Path

_TASKS = Path("/proc/self/task")


def seconds_waited() -> float:
    """Of all threads that are there now together, as Linux counts it; elsewhere not a number."""
    if not _TASKS.is_dir():
        return math.nan
    nanoseconds = 0
    for task in _TASKS.iterdir():
        with contextlib.suppress(OSError):  # it may have ended
            nanoseconds += int((task / "schedstat").read_text().split()[1])
    return nanoseconds / 1e9
