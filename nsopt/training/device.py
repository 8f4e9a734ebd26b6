"""Where and how to compute: device, precision, random state, memory."""

import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from nsopt.errors import NsoptError, OutOfMemoryError, unknown_name
from nsopt.training.machine import Machine

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """A device, and whether matrix products run in bfloat16 there.

    machine: shares the device with other processes; None where there are none.
    """

    device: torch.device
    bf16: bool
    machine: Machine | None = None

    def autocast(self) -> torch.autocast:
        """Mixed precision where `bf16`; weights and BatchNorm statistics stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def turn(self) -> AbstractContextManager[None]:
        """For one batch: other processes may compute meanwhile, but not measure."""
        return self.machine.turn() if self.machine else nullcontext()

    def alone(self) -> AbstractContextManager[None]:
        """For a measurement: other processes wait."""
        return self.machine.alone() if self.machine else nullcontext()


def resolve_compute(device: str, precision: str) -> Compute:
    """The device and precision to use; `auto` takes CUDA, and bfloat16, where there is any.

    Raises NsoptError for a device that is unknown or not here.
    """
    if precision not in get_args(Precision):
        raise unknown_name("precision", precision, get_args(Precision))
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        here = "cpu" + "".join(f", cuda:{i}" for i in range(torch.cuda.device_count()))
        raise NsoptError(
            f"device {device!r} is not available: use --device auto ({here})"
        ) from None
    native = precision == "auto" and _multiplies_bf16(chosen)
    return Compute(chosen, bf16=precision == "bf16" or native)


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
    return f"{name}, {torch.get_num_threads()} threads"


def wait_for(device: torch.device) -> None:
    """Return when everything queued on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` on `device`, its convolutions laid out channels last, which is faster on all."""
    return model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of torch follow from `seed` inside; the state outside is left as it was."""
    cuda = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(seed)
        yield


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's random number generators, for `restore_random_state`."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Make random numbers go on from `state`; what it lacks stays as it is."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into an OutOfMemoryError that names a batch size to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        smaller = max(2, batch_size // 2)
        raise OutOfMemoryError(
            f"out of memory with batches of {batch_size}: try --batch-size {smaller}"
        ) from None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "can't allocate memory" in text or "not enough memory" in text


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
