"""How long this process has waited for processors."""

import contextlib
import math
from pathlib import Path

_PROCESS = Path("/proc/self")


def seconds_waited() -> float:
    """Return the seconds that all threads together have waited; NaN on other systems than Linux."""
    if not (_PROCESS / "schedstat").is_file():
        return math.nan
    nanoseconds = 0
    for task in (_PROCESS / "task").iterdir():
        with contextlib.suppress(OSError):  # the thread may have ended
            nanoseconds += int((task / "schedstat").read_text().split()[1])
    return nanoseconds / 1e9
