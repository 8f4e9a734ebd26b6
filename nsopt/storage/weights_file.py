"""Reading a file of weights that somebody else may have written.

No code in it runs, and it takes no more memory than a few times its size.
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
    """Return what `torch.save` wrote of a dict, its tensors on the CPU.

    Raises NsoptError for a compressed archive and for tensors that claim more than the file holds;
    OSError, or whatever torch raises, for anything else that is no such file.
    """
    if not path.is_file():
        raise NsoptError("there is no such file")
    size = path.stat().st_size
    content: dict[str, Any] = torch.load(_copied(path, size), "cpu", weights_only=True)
    tensors = [leaf for leaf in tree_leaves(content) if isinstance(leaf, Tensor)]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > size:
        raise NsoptError("its tensors claim more than the file holds")
    return content


def _copied(path: Path, size: int) -> io.BytesIO:
    """The archive, written anew from what was checked, so that torch reads nothing else."""
    copied = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copied, "w") as copy:
        members = archive.infolist()
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > size:
            raise NsoptError("it is compressed, as nsopt never writes weights")
        for member in members:
            copy.writestr(member.filename, archive.read(member))
    copied.seek(0)
    return copied
