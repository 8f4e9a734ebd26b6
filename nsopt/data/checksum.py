"""Checksums of archives and of tensors."""

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from nsopt.errors import NsoptError


def check_md5(archive: Path, expected: str) -> None:
    """Raise NsoptError if `archive` does not have the checksum `expected`."""
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != expected:
        raise NsoptError(
            f"{archive} is damaged (md5 {digest}, not {expected}): delete it and fetch it again"
        )


def checksum_of(tensors: Iterable[Tensor]) -> int:
    """Return a checksum (CRC-32) of the numbers in tensors, in this order."""
    content = 0
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        content = zlib.crc32(values.numpy().data, content)
    return content
