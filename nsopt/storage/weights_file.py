"""Files of weights.

Reading one from an untrusted source runs no code from it, and needs at most a few times its size in
memory.
"""

import io
import math
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nsopt.errors import NsoptError
from nsopt.files import write_whole

_PICKLE = ".pkl"  # ends the name of the archive member with the structure of the content
_SIZED = "bytearray"  # allocates any number of bytes, and torch's unpickler allows it
_FEW = 4  # largest content over the file's size; the file stores repeated keys once


def read_weights(path: Path) -> dict[str, Any]:
    """Read a dict that `torch.save` wrote, with its tensors on the CPU.

    Raises:
        NsoptError: for a missing file, a compressed archive, content that is not a dict, or tensors
            or lists that claim more memory than the file holds.
        Exception: OSError or one of torch's errors, for any other invalid file.
    """
    if not path.is_file():
        raise NsoptError("it is a folder" if path.is_dir() else "the file does not exist")
    size = path.stat().st_size
    content = torch.load(_copy(path, size), "cpu", weights_only=True)
    if not isinstance(content, dict):
        raise NsoptError("it contains no named tensors")
    if _count_claimed_bytes(content, {}) > _FEW * size:
        raise NsoptError("its tensors or lists claim more than the file holds")
    return content


def write_weights(path: Path, content: Mapping[str, Any]) -> None:
    """Write a dict with `torch.save`; after a crash or an error an old file is still there."""
    write_whole(path, serialise(content))


def serialise(content: Mapping[str, Any]) -> bytes:
    """Return the file that `torch.save` writes."""
    file = io.BytesIO()
    torch.save(dict(content), file)
    return file.getvalue()


def _copy(path: Path, size: int) -> io.BytesIO:
    """Return a copy of the archive that contains only checked members."""
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
    """Return how many bytes `content` needs if nothing in it is shared.

    Args:
        content: nested containers with tensors and other values.
        known: results for containers so far, by id; infinity for a container inside itself.
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
