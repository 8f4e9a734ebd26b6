"""Tell the user's code from that of PyTorch and nsopt."""

import traceback
from pathlib import Path
from types import FrameType

import torch

_LIBRARIES = tuple(f"{path.parent}/" for path in (Path(torch.__file__), Path(__file__).parent))


def is_of_user(file: str) -> bool:
    """Return whether code is neither of PyTorch nor of nsopt."""
    return not file.startswith(_LIBRARIES)


def find_line(frame: FrameType | None = None) -> str:
    """Return the line of the user's code that runs in a frame or around it, or "" without any."""
    for outer, line in traceback.walk_stack(frame):
        if is_of_user(outer.f_code.co_filename):
            return f"{Path(outer.f_code.co_filename).name}, line {line}"
    return ""
