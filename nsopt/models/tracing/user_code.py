"""Tell the user's code from that of PyTorch and nsopt."""

import traceback
from pathlib import Path

import torch

_LIBRARIES = tuple(f"{path.parent}/" for path in (Path(torch.__file__), Path(__file__).parents[1]))


def is_of_user(file: str) -> bool:
    """Return whether code is neither of PyTorch nor of nsopt."""
    return not file.startswith(_LIBRARIES)


def find_line() -> str:
    """Return the line of code of the user that is running, or "" if there is none."""
    for frame, line in traceback.walk_stack(None):
        if is_of_user(frame.f_code.co_filename):
            return f"{Path(frame.f_code.co_filename).name}, line {line}"
    return ""
