"""Keep the memory of CPU tensors between the steps of a training; say how much was in use."""

import ctypes
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # parameters of glibc's mallopt(3)
_NEVER = -1
_MIB = 2**20
_LARGEST_GAP, _SMALLEST_GAP = 256 * _MIB, _MIB // 64
# glibc's own values in a process that has freed large blocks.
_USUAL = {_TRIM_THRESHOLD: 64 * _MIB, _MMAP_THRESHOLD: 32 * _MIB, _MMAP_MAX: 65536}


@contextmanager
def keep_memory(device: torch.device) -> Iterator[None]:
    """Reuse the memory of freed CPU tensors inside the block, not returning it to the system.

    glibc maps every tensor above 32 MB again, and the system clears its pages, which takes a fifth
    of a training step at the base widths (benchmarks/training_speed.py). The memory also comes from
    one block. In a process that has computed for long, tensors would otherwise fill gaps of their
    sizes: a network that needs 25 MB touches 65 MB and takes a third longer
    (benchmarks/process_age.py). Without glibc this does nothing.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = _load_glibc()
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    gaps = _take_gaps(libc)
    try:
        yield
    finally:
        for gap in gaps:
            libc.free(gap)
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has used, on an accelerator or in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _load_glibc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_size_t
    libc.free.argtypes, libc.free.restype = [ctypes.c_size_t], None
    libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_size_t
    return libc


def _take_gaps(libc: ctypes.CDLL) -> list[int]:
    """Allocate the gaps between blocks in use, except the smallest, so that later blocks are above
    them. Untouched gaps take no memory."""
    libc.malloc_trim(0)
    end = libc.sbrk(0)
    gaps = []
    size = _LARGEST_GAP
    while size >= _SMALLEST_GAP:
        block = libc.malloc(size)
        if block and block + size <= end:
            gaps.append(block)
        else:
            libc.free(block)
            size //= 2
    return gaps
