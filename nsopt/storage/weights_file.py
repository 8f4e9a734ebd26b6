"""Files of weights, as `torch.save` or safetensors writes them.

Reading one from an untrusted source runs no code from it, and needs at most a few times its size in
memory.
"""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nsopt.errors import NsoptError
from nsopt.files import write_whole

_SIZED = b"\nbytearray\n"  # in a pickle, a call that allocates any number of bytes; torch allows it
_FEW = 4  # largest content over the file's size; the file stores repeated keys once


def read_weights(path: Path) -> dict[str, Any]:
    """Read a dict that `torch.save` or safetensors wrote, with its tensors on the CPU.

    Raises:
        NsoptError: for a missing file, a compressed archive, content that is not a dict, or tensors
            or lists that claim more memory than the file holds.
        Exception: OSError or one of torch's errors, for any other invalid file.
    """
    require_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    size = path.stat().st_size
    _check_archive(path, size)
    content = torch.load(path, "cpu", weights_only=True)
    if not isinstance(content, dict):
        raise NsoptError("it contains no named tensors")
    _check_claims(content, _FEW * size)
    return content


def require_file(path: Path) -> None:
    """Raise NsoptError if there is no such file."""
    if not path.is_file():
        raise NsoptError("it is a folder" if path.is_dir() else "the file does not exist")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file  # noqa: PLC0415
    except ImportError:
        raise NsoptError("it needs a package: pip install safetensors") from None
    return dict(load_file(path))


def write_weights(path: Path, content: Mapping[str, Any]) -> None:
    """Write a dict with `torch.save`; after a crash or an error an old file is still there."""
    write_whole(path, serialise(content))


def serialise(content: Mapping[str, Any]) -> bytes:
    """Return the file that `torch.save` writes."""
    file = io.BytesIO()
    torch.save(dict(content), file)
    return file.getvalue()


def _check_archive(path: Path, size: int) -> None:
    """Raise NsoptError for an archive whose reading may need much more memory than its size, and
    for the format of PyTorch before 1.6, which is none."""
    with path.open("rb") as file:
        first = file.read(1)
    if first == pickle.PROTO and not zipfile.is_zipfile(path):
        raise NsoptError(
            "it has the format of PyTorch before 1.6, or is no file of weights; if it is yours, "
            "write it again: torch.save(torch.load(path, weights_only=True), path)"
        )
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > size:
            raise NsoptError("it is compressed, and nsopt never compresses weights")
        if any(_SIZED in archive.read(m) for m in members if m.filename.endswith(".pkl")):
            raise NsoptError("it makes a bytearray, which weights do not need")
        if archive.testzip() is not None:  # torch.load does not compare checksums
            raise zipfile.BadZipFile


def _check_claims(content: object, left: float) -> None:
    """Raise NsoptError if nested containers need more bytes than `left`, with nothing shared."""
    parts = [content]
    while parts and left >= 0:
        part = parts.pop()
        if isinstance(part, dict):
            parts += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set):
            parts += part
        elif isinstance(part, str | bytes):
            left -= len(part)
        if isinstance(part, Tensor) and part.layout != torch.strided:
            raise NsoptError("it holds a sparse tensor: make it dense first, with to_dense()")
        left -= part.nbytes if isinstance(part, Tensor) else 1
    if left < 0:
        raise NsoptError("its tensors or lists claim more than the file holds")
