"""A simulated device: tensors that claim to be on `cuda` or `mps`, held on the CPU.

The rules of placement are those of the real device: tensors of two devices cannot be mixed, NumPy
refuses them, there is no float64 on MPS. Every copy between host and device, and every wait for the
device, is logged with the line of nsopt that caused it. Speed, kernels and streams are not
simulated: results are those of the CPU. Kernels that the CPU lacks, such as cuDNN's recurrent ones,
cannot run.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import nsopt
from tests.simulated_device.guard import simulate

aten = torch.ops.aten
Kind = Literal["to device", "to host", "wait"]
Name = Literal["cuda", "mps"]
_PACKAGE = str(Path(nsopt.__file__).parent)
_NAMES = ("cuda", "mps")
_TAKE_INDICES = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
_READ_BY_THE_HOST = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten._local_scalar_dense.default,
}


@dataclass(frozen=True)
class Event:
    """Something that a real device would take time for. place: the line of nsopt, `file:line`."""

    kind: Kind
    place: str


@dataclass(eq=False)
class SimulatedDevices:
    """Devices that `simulated` adds to this machine.

    generators: one for each device; largest: bytes of the largest tensor that fits a device;
    free: bytes that a device reports as free.
    """

    name: Name
    generators: tuple[torch.Generator, ...]
    largest: int = sys.maxsize
    free: int = 2**40
    events: list[Event] = field(default_factory=list)

    def note(self, kind: Kind) -> None:
        """Log an event."""
        self.events.append(Event(kind, _place()))

    def places(self, kind: Kind) -> list[str]:
        """Return the file of nsopt that caused each event of a kind."""
        return [event.place.partition(":")[0] for event in self.events if event.kind == kind]


_devices: SimulatedDevices | None = None


@contextmanager
def simulated(name: Name = "cuda", count: int = 1) -> Iterator[SimulatedDevices]:
    """Add `count` devices of this name, `cuda` or `mps`, to this machine."""
    global _devices  # noqa: PLW0603
    _devices = SimulatedDevices(name, tuple(torch.Generator() for _ in range(count)))
    keeps_objects = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    simulate(name)
    try:
        with _runtime(_devices), _Factories():  # type: ignore[no-untyped-call]
            yield _devices
    finally:
        simulate("none")
        torch.__future__.set_swap_module_params_on_conversion(keeps_objects)
        _devices = None


def _active() -> SimulatedDevices:
    assert _devices is not None, "a tensor outlived its simulated device"
    return _devices


class DeviceTensor(Tensor):
    """A tensor on a simulated device. held: the same tensor on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Self:
        if device.type == "mps" and held.dtype in (torch.float64, torch.complex128):
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
                "float64. Please use float32 instead."
            )
        if held.nbytes > _active().largest:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {held.nbytes} B.")
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(device.type, device.index or 0),
        )
        made.held = held.detach()
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.held!r} on {self.device}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.numpy, Tensor.__array__):
            raise TypeError(
                f"can't convert {args[0].device} device type tensor to numpy. Use Tensor.cpu() to "
                "copy the tensor to host memory first."
            )
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Calls without a tensor of the device that make one, such as `torch.zeros(device=...)`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is aten._pin_memory.default:
            return args[0].clone()
        if _is_simulated(options.get("device")) or any(t is DeviceTensor for t in types):
            return _run(func, args, options)
        return func(*args, **options)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU tensors behind its arguments."""
    tensors: list[Tensor] = []
    _mapped((*args, *kwargs.values()), tensors.append)
    own = [t for t in tensors if isinstance(t, DeviceTensor)]
    device = _device_of_result(func, args, kwargs, own)
    _note(func, args, device)
    _check(func, args, tensors, kwargs.get("generator"))
    options = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items()}
    options.pop("pin_memory", None)
    with _drawing(func, device):
        result = func(*_mapped(args, _held), **{k: _mapped(v, _held) for k, v in options.items()})
    if device is None:
        return result
    known = {id(t.held): t for t in own}  # operations in place return what they were given

    def on_device(tensor: Tensor) -> DeviceTensor:
        return known[id(tensor)] if id(tensor) in known else DeviceTensor(tensor, device)

    return _mapped(result, on_device)


def _mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Change the tensors that an operation takes or returns; faster than a pytree."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([_mapped(part, change) for part in value])
    return value


def _held(tensor: Tensor) -> Tensor:
    return tensor.held if isinstance(tensor, DeviceTensor) else tensor


def _device_of_result(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], own: list[DeviceTensor]
) -> torch.device | None:
    """Return the device of the result, or None for the CPU."""
    if kwargs.get("device") is not None:
        device = torch.device(kwargs["device"])
        return device if _is_simulated(device) else None
    if func is aten.copy_.default or func in _TAKE_INDICES:
        return args[0].device if isinstance(args[0], DeviceTensor) else None
    return own[0].device if own else None


def _check(func: Any, args: tuple[Any, ...], tensors: list[Tensor], generator: Any) -> None:
    """Raise RuntimeError if the real device could not compute this."""
    own = [t for t in tensors if isinstance(t, DeviceTensor)]
    if own and generator is not None and generator in (torch.default_generator,):
        raise RuntimeError(f"Expected a {own[0].device.type!r} device type for generator")
    if func in (aten._to_copy.default, aten.copy_.default):
        return
    if func in _TAKE_INDICES:
        indices, rest = args[1], [args[0], *args[2:]]
        tensors = [t for t in rest if isinstance(t, Tensor)]
        if not _is_simulated(args[0].device):
            tensors += [t for t in indices if t is not None]
    devices = {t.device for t in tensors if t.ndim > 0 or isinstance(t, DeviceTensor)}
    if own and len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices: "
            f"{found} ({func} in {_place()})"
        )


def _note(func: Any, args: tuple[Any, ...], device: torch.device | None) -> None:
    """Log copies between host and device."""
    if func in _READ_BY_THE_HOST:
        _active().note("to host")
    elif func is aten._to_copy.default:
        _note_copy(isinstance(args[0], DeviceTensor), device is not None)
    elif func is aten.copy_.default:
        _note_copy(isinstance(args[1], DeviceTensor), device is not None)
    elif func in _TAKE_INDICES and device is not None:
        for index in args[1]:
            if index is not None and not isinstance(index, DeviceTensor):
                _active().note("to device")
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                _active().note("to host")


def _note_copy(from_device: bool, to_device: bool) -> None:
    if from_device != to_device:
        _active().note("to device" if to_device else "to host")


@contextmanager
def _drawing(func: Any, device: torch.device | None) -> Iterator[None]:
    """Draw random numbers on a device from its own generator."""
    if device is None or torch.Tag.nondeterministic_seeded not in func.tags:
        yield
        return
    own, default = _active().generators[device.index or 0], torch.default_generator
    before = default.get_state()
    default.set_state(own.get_state())
    try:
        yield
    finally:
        own.set_state(default.get_state())
        default.set_state(before)


def _is_simulated(device: Any) -> bool:
    return device is not None and torch.device(device).type in _NAMES


def _place() -> str:
    """Return the innermost line of nsopt that is running."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return "outside"
    return f"{Path(frame.f_code.co_filename).relative_to(_PACKAGE)}:{frame.f_lineno}"


@contextmanager
def _runtime(devices: SimulatedDevices) -> Iterator[None]:
    """Replace the functions of torch that ask the driver."""
    is_cuda = devices.name == "cuda"

    def wait(*_: Any) -> None:
        devices.note("wait")

    def count() -> int:
        return len(devices.generators) if is_cuda else 0

    make = torch.tensor

    def tensor(data: Any, device: Any = None, **options: Any) -> Tensor:  # a copy from the host
        made = make(data, **options)
        return made if device is None else made.to(device)

    def instead(module: Any, **functions: Any) -> Any:
        return mock.patch.multiple(module, create=True, **functions)

    with (
        instead(
            torch.cuda,
            _lazy_init=_nothing,
            is_initialized=lambda: is_cuda,
            is_available=lambda: is_cuda,
            device_count=count,
            default_generators=devices.generators if is_cuda else (),
            get_device_properties=_properties,
            get_device_name=lambda device=None: _properties(device).name,
            get_device_capability=lambda device=None: (9, 0),
            is_bf16_supported=lambda *_, **__: True,
            synchronize=wait,
            mem_get_info=lambda device=None: (devices.free, devices.free),
            empty_cache=_nothing,
        ),
        instead(torch, tensor=tensor),
        instead(torch.cuda.random, device_count=count),
        _without_onednn(),
        instead(
            torch._C, _cuda_getDevice=torch.accelerator.current_device_index, _has_mps=not is_cuda
        ),
        instead(
            torch.mps,
            is_available=lambda: not is_cuda,
            _get_default_mps_generator=lambda: devices.generators[0],
            synchronize=wait,
            recommended_max_memory=lambda: devices.free,
            driver_allocated_memory=lambda: 0,
            empty_cache=_nothing,
        ),
        instead(torch.accelerator, device_count=lambda: len(devices.generators), synchronize=wait),
    ):
        yield


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Switch oneDNN off: its gradient of a 1x1 convolution with a stride writes beyond its memory
    in PyTorch 2.13, and nsopt avoids that on the CPU alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "enabled", False)
        yield


def _nothing() -> None: ...


def _properties(device: Any = None) -> SimpleNamespace:
    index = torch.device("cuda" if device is None else device).index or 0
    return SimpleNamespace(name="Simulated", uuid=f"GPU-{index}", major=9, minor=0)
