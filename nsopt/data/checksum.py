"""Checksums of tensors."""

import io
import zlib
from collections.abc import Iterable

import torch
from torch import Tensor


def checksum_of(tensors: Iterable[Tensor]) -> int:
    """Return a checksum (CRC-32) of the numbers in tensors, in this order."""
    content = 0
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            torch.save(tensor.detach().cpu(), file := io.BytesIO())
            content = zlib.crc32(file.getvalue(), content)
            continue
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        content = zlib.crc32(values.numpy().data, content)
    return content
