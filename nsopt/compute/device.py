"""The device, precision, memory and random numbers of computations.

torch has one generator per device for all threads of a process. One thread at a time enters the
blocks that use a seed. They restore the generator at the end.
"""

import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nsopt.errors import NsoptError, OutOfMemoryError, unknown_name
from nsopt.isolation import GENERATORS
from nsopt.models.networks import LONGEST_KERNEL, lay_out
from nsopt.settings import Precision

_EXACT = ("ieee", "none")  # values of torch's fp32_precision that do not round
_CONVOLUTIONS: tuple[Callable[..., Any], ...] = (
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
)
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

        On the CPU, convolutions with long kernels run in float32 (`models.networks` says why).
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


class LongConvolutionsInFloat32(TorchFunctionMode):
    """Inside bf16 autocast on the CPU: kernels longer than `LONGEST_KERNEL` compute in float32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if func not in _CONVOLUTIONS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **options)
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | options
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        casts = x.dtype.is_floating_point and x.dtype != torch.float64
        if (
            x.device.type != "cpu"
            or not casts
            or max(weight.shape[2:], default=0) <= LONGEST_KERNEL
        ):
            return func(*args, **options)
        tensors = (_make_exact(tensor) for tensor in (x, weight, bias))
        with torch.autocast("cpu", enabled=False):
            exact = func(*tensors, *args[3:], **given)
        return exact.to(torch.get_autocast_dtype("cpu"))


def _make_exact(tensor: Tensor | None) -> Tensor | None:
    """Return a tensor in float32, channels first: see `models.networks`."""
    return None if tensor is None else tensor.float().contiguous()


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


class OwnRandomState:
    """The random numbers of one training: inside `in_use`, torch draws from them.

    They depend only on `seed` and on earlier draws inside `in_use`, not on other threads. Outside,
    torch's random numbers do not change.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with use_seed(seed, device):
            self._state = _read_state(device)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Make torch draw from these numbers inside the block."""
        with _isolate(self._device):
            torch.set_rng_state(self._state["cpu"])
            if (kind := self._device.type) != "cpu" and kind in self._state:
                torch.get_device_module(kind).set_rng_state(self._state[kind], self._device)
            try:
                yield
            finally:
                self._state = _read_state(self._device)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the state from which `restore` continues."""
        return self._state

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from a `state`."""
        self._state = dict(state)


@contextmanager
def use_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers inside the block, on the CPU and on `device`.

    Other devices, and the state outside, do not change.
    """
    with _isolate(device):
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            with torch.accelerator.device_index(device.index):
                torch.get_device_module(device).manual_seed(seed)
        yield


@contextmanager
def _isolate(device: torch.device) -> Iterator[None]:
    """Let one thread at a time into the block, and restore the random state at its end.

    In it cuDNN chooses the same kernels every time; its other settings, such as TF32, stay.
    """
    cudnn = torch.backends.cudnn
    with keep_random_state(device):
        before = cudnn.benchmark, cudnn.deterministic
        cudnn.benchmark, cudnn.deterministic = False, True
        try:
            yield
        finally:
            cudnn.benchmark, cudnn.deterministic = before


@contextmanager
def keep_random_state(device: torch.device) -> Iterator[None]:
    """Restore torch's random numbers at the end of the block; one thread at a time enters it."""
    devices = [] if device.type == "cpu" else [device]
    with GENERATORS, torch.random.fork_rng(devices, device_type=device.type):
        yield


def _read_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    return state
