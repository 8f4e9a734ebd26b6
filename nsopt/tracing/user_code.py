"""Tell the user's code from that of PyTorch and nsopt."""

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from types import FrameType

import torch

from nsopt.progress import repeated

_LIBRARIES = tuple(f"{path.parent}/" for path in (Path(torch.__file__), Path(__file__).parent))
_LONG = 60.0  # seconds


def is_of_user(file: str) -> bool:
    """Return whether code is neither of PyTorch nor of nsopt."""
    return not file.startswith(_LIBRARIES)


def find_line(frame: FrameType | None = None) -> str:
    """Return the line of the user's code that runs in a frame or around it, or "" without any."""
    for outer, line in traceback.walk_stack(frame):
        if is_of_user(outer.f_code.co_filename):
            return f"{Path(outer.f_code.co_filename).name}, line {line}"
    return ""


@contextmanager
def tell_when_long(task: str) -> Iterator[None]:
    """Inside the block, write a line to stderr after each minute: the task, and what runs."""
    start, thread = time.monotonic(), get_ident()

    def tell() -> None:
        line = find_line(sys._current_frames()[thread])
        spent = f"{time.monotonic() - start:.0f} s so far"
        sys.stderr.write(f"{task}: {spent}, now in {line}\n")

    with repeated(tell, _LONG):
        yield
