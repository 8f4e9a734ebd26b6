"""The device and precision of computations."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import nn

from nsopt.compute.bf16 import LongConvolutionsInFloat32
from nsopt.compute.out_of_memory import memory_for
from nsopt.errors import NsoptError, unknown_name
from nsopt.models.layout import lay_out
from nsopt.settings import Precision

_EXACT = ("ieee", "none")  # values of torch's fp32_precision that do not round


@dataclass(frozen=True)
class Compute:
    """A device and its precision.

    Attributes:
        bf16: whether matrix products run in bfloat16.
        threads: number of CPU threads of a measurement, also in a worker that computes with fewer.
    """

    device: torch.device
    bf16: bool
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def precision(self) -> str:
        """Precision of training: bf16 or fp32."""
        return "bf16" if self.bf16 else "fp32"

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in mixed precision if `bf16`; weights and BatchNorm statistics stay float32.

        On the CPU, convolutions with long kernels run in float32 (`compute.bf16` says why).
        """
        on_cpu = self.bf16 and self.device.type == "cpu"
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
            LongConvolutionsInFloat32() if on_cpu else nullcontext(),
        ):
            yield

    @contextmanager
    def all_threads(self) -> Iterator[None]:
        """Use as many threads inside the block as measurements do."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def resolve_compute(device: str, precision: str) -> Compute:
    """Return the device and precision.

    Args:
        device: as torch names it; `auto` is CUDA if available.
        precision: `bf16`, `fp32`, or `auto`, which is bf16 if the device computes it natively.

    Raises:
        NsoptError: for an unknown or unavailable device, or an unknown precision.
        OutOfMemoryError: if the device has no free memory.
    """
    if precision not in get_args(Precision):
        raise unknown_name("precision", precision, get_args(Precision))
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(name)
        with memory_for(chosen, "a single tensor"):
            torch.zeros(1, device=chosen).item()  # which `meta` cannot
    except (RuntimeError, AssertionError, NotImplementedError):
        here = "cpu" + "".join(f", cuda:{i}" for i in range(torch.cuda.device_count()))
        raise NsoptError(
            f"device {device!r} is not available: use device='auto' ({here})"
        ) from None
    native = precision == "auto" and _multiplies_bf16(chosen)
    return Compute(chosen, bf16=precision == "bf16" or native)


def nth_device(device: torch.device, number: int) -> torch.device:
    """Return the device of worker `number`: CUDA devices in turn, starting at `device`."""
    if device.type != "cuda":
        return device
    first = device.index if device.index is not None else torch.cuda.current_device()
    return torch.device("cuda", (first + number) % torch.cuda.device_count())


def describe_device(device: torch.device) -> str:
    """Return a name for reports, such as `AMD EPYC 9R14, 2 threads` or `NVIDIA A100`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _processor().get("cpu_name", platform.machine())
    if device.type != "cpu":
        return f"{name}, {device.type}"
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads != 1)}"


def float32_precision(device: torch.device) -> str:
    """Return how torch multiplies float32 numbers on `device`.

    `fp32` means exactly. If torch rounds the numbers first, the result names the operations: CUDA's
    default is `fp32, tf32 convolutions`.
    """
    backends: Any = torch.backends
    if device.type == "cuda":
        operations = backends.cudnn.conv, backends.cuda.matmul
    elif device.type == "cpu":
        operations = backends.mkldnn.conv, backends.mkldnn.matmul
    else:
        return "fp32"
    rounded = [
        f"{operation.fp32_precision} {name}"
        for name, operation in zip(("convolutions", "products"), operations, strict=True)
        if operation.fp32_precision not in _EXACT
    ]
    return ", ".join(["fp32", *rounded])


def wait_for(device: torch.device) -> None:
    """Wait until `device` has finished all queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def place(model: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """Move `model` to `device` in a memory layout. Raises OutOfMemoryError if it does not fit."""
    with memory_for(device, "the network"):
        return lay_out(model.to(device), layout)


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(_processor().get("avx512_bf16") or _processor().get("amx_bf16"))


def _processor() -> dict[str, Any]:
    """Return what PyTorch says of the processor; older releases say nothing."""
    return getattr(torch.cpu, "get_capabilities", dict)()
