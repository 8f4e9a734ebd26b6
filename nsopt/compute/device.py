"""Where and how to compute: device and precision."""

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from nsopt.compute.device_lock import DeviceLock
from nsopt.compute.out_of_memory import memory_for
from nsopt.errors import NsoptError, unknown_name
from nsopt.models.layout import lay_out
from nsopt.settings import Precision

_EXACT = ("ieee", "none")  # values of torch's fp32_precision that round nothing


@dataclass(frozen=True)
class Compute:
    """A device, and whether matrix products run in bfloat16 there.

    lock: of the processes that share the device; None where there is only this one.
    """

    device: torch.device
    bf16: bool
    lock: DeviceLock | None = None

    @property
    def precision(self) -> str:
        """Of training, in a word."""
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> torch.autocast:
        """Mixed precision where `bf16`; weights and BatchNorm statistics stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """For any number of batches: other processes may compute meanwhile, and measure when this
        one calls `give_way`. It ends when the device has done what was queued on it."""
        if self.lock is None:
            yield
            return
        with self.lock.shared():
            try:
                yield
            finally:
                wait_for(self.device)

    def give_way(self) -> None:
        """Before a batch, inside `computing`: if another process waits to measure, finish what was
        queued on the device and let it; otherwise nothing waits for the device."""
        if self.lock is not None and self.lock.is_wanted():
            wait_for(self.device)
            self.lock.give_way()

    def exclusive(self) -> AbstractContextManager[None]:
        """For a measurement, not inside `computing`: other processes wait."""
        return self.lock.exclusive() if self.lock else nullcontext()


def resolve_compute(device: str, precision: str) -> Compute:
    """The device and precision to use; `auto` takes CUDA, and bfloat16, where there is any.

    Raises NsoptError for a device that is unknown or not here, OutOfMemoryError for a full one.
    """
    if precision not in get_args(Precision):
        raise unknown_name("precision", precision, get_args(Precision))
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(name)
        with memory_for(chosen, "a single tensor"):
            torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        here = "cpu" + "".join(f", cuda:{i}" for i in range(torch.cuda.device_count()))
        raise NsoptError(
            f"device {device!r} is not available: use --device auto ({here})"
        ) from None
    native = precision == "auto" and _multiplies_bf16(chosen)
    return Compute(chosen, bf16=precision == "bf16" or native)


def hardware_name(device: torch.device) -> str:
    """The same for all names of one device, in all processes of a machine."""
    if device.type != "cuda":
        return device.type
    return f"cuda-{torch.cuda.get_device_properties(device).uuid}"


def nth_device(device: torch.device, number: int) -> torch.device:
    """The device of worker `number`: CUDA devices in turn, counted from `device`."""
    if device.type != "cuda":
        return device
    first = device.index if device.index is not None else torch.cuda.current_device()
    return torch.device("cuda", (first + number) % torch.cuda.device_count())


def describe_device(device: torch.device) -> str:
    """A name for reports, such as `AMD EPYC 9R14, 2 threads` or `NVIDIA A100`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = torch.cpu.get_capabilities().get("cpu_name", platform.machine())
    if device.type != "cpu":
        return f"{name}, {device.type}"
    return f"{name}, {torch.get_num_threads()} threads"


def float32_precision(device: torch.device) -> str:
    """How torch was told to multiply float32 numbers on `device`: `fp32` for exactly, otherwise
    followed by what it rounds them to (on CUDA its own choice is `fp32, tf32 convolutions`)."""
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
    """Return when everything queued on `device` is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def place(model: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """`model` on `device`, its convolutions laid out so. OutOfMemoryError if it does not fit."""
    with memory_for(device, "the network"):
        return lay_out(model.to(device), layout)


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
