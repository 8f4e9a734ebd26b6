"""Read a file of weights that anybody may have written.

Reading runs no code from the file and takes at most a few times its size in memory.
"""

import io
import math
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nsopt.errors import NsoptError

_PICKLE = ".pkl"  # ends the name of the member that tells what the others are
_SIZED = "bytearray"  # which torch calls with any number of bytes
_FEW = 4  # times its size that a file may claim: a key of many dicts is stored once


def read_weights(path: Path) -> dict[str, Any]:
    """Read a dict that `torch.save` wrote, its tensors on the CPU.

    Raises NsoptError for a compressed archive, and for tensors or lists that claim more than the
    file holds; OSError or torch's errors for any other invalid file.
    """
    if not path.is_file():
        raise NsoptError("the file does not exist")
    size = path.stat().st_size
    content: dict[str, Any] = torch.load(_copy(path, size), "cpu", weights_only=True)
    if _count_claimed_bytes(content, {}) > _FEW * size:
        raise NsoptError("its tensors or lists claim more than the file holds")
    return content


def _copy(path: Path, size: int) -> io.BytesIO:
    """Return a copy of the archive with the checked members only."""
    copied = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copied, "w") as copy:
        members = archive.infolist()
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > size:
            raise NsoptError("it is compressed, and nsopt never compresses weights")
        for member in members:
            content = archive.read(member)
            if member.filename.endswith(_PICKLE):
                _check_calls(content)
            copy.writestr(member.filename, content)
    copied.seek(0)
    return copied


def _check_calls(content: bytes) -> None:
    """Raise NsoptError if a pickle may allocate memory that it does not hold."""
    if _SIZED.encode() not in content:
        return
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == "GLOBAL" and str(argument).endswith(f" {_SIZED}"):
            raise NsoptError("it makes a bytearray, which weights do not need")


def _count_claimed_bytes(content: Any, known: dict[int, float]) -> float:
    """Return the least bytes that a file needs in which nothing occurs twice.

    known: those of the containers so far, by id; infinity for a container inside itself.
    """
    if isinstance(content, (str, bytes)):
        return len(content)
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    if not isinstance(content, (dict, list, tuple, set)):
        return 1
    if id(content) not in known:
        known[id(content)] = math.inf
        parts = [*content.keys(), *content.values()] if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_count_claimed_bytes(part, known) for part in parts)
    return known[id(content)]
