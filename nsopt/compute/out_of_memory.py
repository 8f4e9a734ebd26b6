"""Recognise out-of-memory errors, and explain them to users."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import torch

from nsopt.errors import OutOfMemoryError

_SMALLEST_BATCH = 2  # BatchNorm cannot train on one image
_SIGNS = re.compile(
    r"out of memory"  # CUDA's allocator and driver, MPS
    r"|can't allocate memory|not enough memory"  # DefaultCPUAllocator, on Linux and Windows
    r"|(cublas|cudnn|cusolver|cusparse)_status_(\w+_)?alloc\w*_failed",
    re.IGNORECASE,
)
# A library reports this if it has no memory for its handle, but also for other reasons.
_HINTS = re.compile(r"(cublas|cudnn|cusolver|cusparse)_status_not_initialized", re.IGNORECASE)
_HANDLE = 256 * 2**20


def is_out_of_memory(error: BaseException, device: torch.device) -> bool:
    """Return whether `error`, raised by a computation on `device`, means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if _HINTS.search(str(error)):
        free = free_memory(device)
        return free is not None and free < _HANDLE
    return _SIGNS.search(str(error)) is not None


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device with its own memory; None for other devices."""
    if device.type == "cuda":
        with suppress(RuntimeError):
            return torch.cuda.mem_get_info(device)[0]
        return 0
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


def give_cached_memory_back(device: torch.device) -> None:
    """Return PyTorch's cached memory to the device, so that libraries can use it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def explain_out_of_memory(
    device: torch.device, batch_size: int | None
) -> AbstractContextManager[None]:
    """Raise OutOfMemoryError with a batch size to try if memory runs out inside the block.

    Args:
        batch_size: the current batch size; None if a user's loader determines it.
    """
    if batch_size is None:
        advice = "out of memory with the batches of the loader: give it a smaller batch size"
    elif batch_size <= _SMALLEST_BATCH:
        advice = no_memory_for(device, f"batches of {batch_size}")
    else:
        smaller = max(_SMALLEST_BATCH, batch_size // 2)
        advice = f"out of memory with batches of {batch_size}: try batch_size={smaller}"
    return _explain(device, advice)


def memory_for(device: torch.device, what: str) -> AbstractContextManager[None]:
    """Raise OutOfMemoryError that names `what` if memory runs out inside the block."""
    return _explain(device, no_memory_for(device, what))


def no_memory_for(device: torch.device, what: str) -> str:
    """Return the error message for cases in which no batch size would help."""
    return (
        f"device {device} has no memory left for {what}: "
        "stop other programs on it, or choose another with device="
    )


@contextmanager
def _explain(device: torch.device, message: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error, device):
            raise
        raise OutOfMemoryError(message) from None
