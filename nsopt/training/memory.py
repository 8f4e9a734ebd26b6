"""Memory of tensors that is kept between the steps of a training."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # parameters of glibc's mallopt(3)
_NEVER = -1
_MIB = 2**20
# What glibc's own adjustment ends at in a process that has freed large blocks.
_USUAL = {_TRIM_THRESHOLD: 64 * _MIB, _MMAP_THRESHOLD: 32 * _MIB, _MMAP_MAX: 65536}


@contextmanager
def memory_kept(device: torch.device) -> Iterator[None]:
    """Reuse the memory of freed tensors on the CPU, instead of giving it back to the system.

    glibc maps every tensor above 32 MB anew, and the system clears its pages one by one: a fifth
    of a training step at the base widths (benchmarks/training_speed.py). Inside, such memory stays
    with the process; at the end it is given back. Elsewhere than on glibc this does nothing.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
