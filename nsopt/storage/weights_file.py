"""Read a file of weights that anybody may have written.

Reading runs no code from the file and takes at most a few times its size in memory.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nsopt.errors import NsoptError


def read_weights(path: Path) -> dict[str, Any]:
    """Read a dict that `torch.save` wrote, its tensors on the CPU.

    Raises NsoptError for a compressed archive, and for tensors that claim more than the file holds;
    OSError or torch's errors for any other invalid file.
    """
    if not path.is_file():
        raise NsoptError("the file does not exist")
    size = path.stat().st_size
    content: dict[str, Any] = torch.load(_copy(path, size), "cpu", weights_only=True)
    tensors = [leaf for leaf in tree_leaves(content) if isinstance(leaf, Tensor)]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > size:
        raise NsoptError("its tensors claim more than the file holds")
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
            copy.writestr(member.filename, archive.read(member))
    copied.seek(0)
    return copied
