"""Keep the memory of CPU tensors between training steps; report the peak memory."""

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
    """Inside the block, reuse the memory of freed CPU tensors instead of returning it.

    By default glibc asks the system for the memory of every tensor above 32 MB, and the system
    clears it: a fifth of a training step at base widths (benchmarks/training_speed.py).

    All memory also comes from one block. In a process that has computed for a long time, tensors
    would otherwise be spread over gaps of their sizes: a network that needs 25 MB touches 65 MB and
    takes a third longer (benchmarks/process_age.py).

    Without glibc this does nothing.
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
    """Return the peak memory of this process in bytes, on an accelerator or in main memory."""
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
    """Allocate the gaps between used blocks, except small ones, so that new blocks are above them.

    A gap that is never written takes no memory.
    """
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
