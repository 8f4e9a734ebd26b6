"""How long this process has waited for its turn on the processors."""

import contextlib
import math
from pathlib import Path

_PROCESS = Path("/proc/self")


def seconds_waited() -> float:
    """Of all threads that are there now together, as Linux counts it; elsewhere not a number."""
    if not (_PROCESS / "schedstat").is_file():
        return math.nan
    nanoseconds = 0
    for task in (_PROCESS / "task").iterdir():
        with contextlib.suppress(OSError):  # it may have ended
            nanoseconds += int((task / "schedstat").read_text().split()[1])
    return nanoseconds / 1e9
