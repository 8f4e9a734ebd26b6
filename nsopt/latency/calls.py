"""Record the torch functions that a network calls, with shapes alone; time each kernel by itself.

Calls of one `kind` differ only in their channels. One or two sizes (`place`) order the calls of a
kind: the input and output channels of a plain convolution, or the number of elements that any other
function reads and writes. Both are linear in the widths.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from nsopt.compute.device import wait_for
from nsopt.compute.out_of_memory import is_out_of_memory
from nsopt.errors import NsoptError, short_reason
from nsopt.latency.model import BLOCK, Table
from nsopt.models.layout import change_layout
from nsopt.models.quiet import silence_fakes, trust_distributions
from nsopt.models.tracing.states import follow_modules, restore_modules

_CHANNELS = 1  # the axis
_WARMUP = 2  # runs of a kernel, as are the next two
_FEWEST = 4
_MOST = 30
_SECONDS = 0.04
_BURST = 20
_POINTS = 7
_FEW = (2, 8)


class UnpredictableError(NsoptError):
    """A network's latency cannot be learned from its kernels."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a torch function.

    Attributes:
        kind: equal for calls that differ only in their channels.
        place: its one or two sizes.
        module: path of the innermost module that made the call.
        arguments: its arguments; tensors are on the meta device. Of a convolution all seven.
    """

    kind: str
    place: tuple[int, ...]
    module: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def is_convolution(self) -> bool:
        """Whether this is a convolution without groups, which has two sizes."""
        return len(self.place) > 1


def record_calls(model: nn.Module, input_shape: Sequence[int], batch_size: int) -> list[Call]:
    """Return the calls of one forward pass in evaluation mode that compute a tensor, in order.

    Raises UnpredictableError if `forward` needs the values of tensors.
    """
    recorder, model = _Recorder(), model.eval()
    with torch.no_grad(), silence_fakes(), FakeTensorMode(allow_non_fake_inputs=True), _Apart():  # type: ignore[no-untyped-call]
        images = torch.empty(batch_size, *input_shape)
        running = follow_modules(model, recorder.running)
        with trust_distributions(), restore_modules(model), running, recorder:
            try:
                model(images)
            except Exception as error:  # the user's code or torch may raise anything
                reason = short_reason(error)
                raise UnpredictableError(f"its kernels cannot be recorded ({reason})") from None
    return [
        replace(call, arguments=_to_meta(call.arguments), options=_to_meta(call.options))
        for call in recorder.calls
    ]


def _to_meta(nest: Any) -> Any:
    """Return nested arguments whose tensors need no memory."""
    return pytree.tree_map_only(
        Tensor, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"), nest
    )


class _Apart(TorchDispatchMode):
    """Runs operations such that nothing records the functions of torch by which they are made."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return func(*args, **(kwargs or {}))


class _Recorder(TorchFunctionMode):
    """Records calls, each with the module that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.running: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if func is torch.conv2d:
            args, options = _order_conv2d(*args, **options), {}
        before = {id(arg): arg._version for arg in args if isinstance(arg, Tensor)}
        result = func(*args, **options)
        if isinstance(result, Tensor) and _computes(before, result):
            kind, place = _describe(func, args, result)
            self.calls.append(Call(kind, place, self.running[-1], func, args, options))
        return result


def _order_conv2d(
    input: Tensor,  # noqa: A002  (its name in PyTorch)
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...]:
    """Return the arguments of `torch.conv2d` by position, with its defaults."""
    return input, weight, bias, stride, padding, dilation, groups


def _computes(before: Mapping[int, int], result: Tensor) -> bool:
    """Return whether a call computed something: its result is no view, unless it wrote into it.

    Args:
        before: the versions of the tensors among its arguments, by identity.
    """
    version = before.get(id(result))
    return result._base is None if version is None else result._version > version


def _describe(
    function: Callable[..., Any], args: tuple[Any, ...], result: Tensor
) -> tuple[str, tuple[int, ...]]:
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    fixed = [arg for arg in args if not isinstance(arg, Tensor)]
    name = resolve_name(function) or repr(function)
    shapes = [list(tensor.shape[2:]) for tensor in (*tensors, result)]
    if function is torch.conv2d:
        groups = fixed.pop()
        kind = f"{name} {shapes} {fixed} {'groups' if groups > 1 else ''}"
        if groups == 1:
            return kind, (tensors[0].shape[_CHANNELS], result.shape[_CHANNELS])
    else:
        kind = f"{name} {shapes}"
    read = tensors[0].numel() if tensors else result.numel()
    return kind, (read + result.numel(),)


def measure_table(
    calls: Sequence[Call], device: torch.device, layout: torch.memory_format
) -> Table:
    """Time calls of one kind: plain convolutions over their channels, others over their size.

    Raises UnpredictableError if one does not run on other values.
    """
    if calls[0].is_convolution:
        return _measure_convolutions(calls, device, layout)
    by_place = {call.place[0]: call for call in calls}
    sizes = sorted(by_place)
    chosen = np.unique(np.linspace(0, len(sizes) - 1, _POINTS).round().astype(int))
    axis = np.array([sizes[i] for i in chosen], dtype=np.float64)
    try:
        measured = [_time(_replay(by_place[sizes[i]], device, layout), device) for i in chosen]
    except Exception as error:  # torch may refuse random tensors by any
        if is_out_of_memory(error, device):
            raise
        what = f"{calls[0].kind.split()[0]} cannot be timed alone ({short_reason(error)})"
        raise UnpredictableError(what) from None
    return Table.of((axis,), 1000 * np.array(measured), (1,))


def _measure_convolutions(
    calls: Sequence[Call], device: torch.device, layout: torch.memory_format
) -> Table:
    """Time convolutions over their numbers of input and output channels.

    The number of inputs stays if it is the same in all calls.
    """
    inputs, outputs = (sorted({call.place[d] for call in calls}) for d in range(2))
    axes = tuple(
        np.array(places if len(places) == 1 else _choose_channels(places[-1]), dtype=np.float64)
        for places in (inputs, outputs)
    )
    images, weight, _, *fixed = calls[0].arguments
    batch, shape, window = images.shape[0], images.shape[2:], weight.shape[2:]
    measured = np.zeros((len(axes[0]), len(axes[1])))
    for i, read in enumerate(axes[0].astype(int).tolist()):
        x = _draw_tensor((batch, read, *shape), device, layout)
        for j, made in enumerate(axes[1].astype(int).tolist()):
            w = _draw_tensor((made, read, *window), device, layout)
            bias = torch.zeros(made, device=device)
            run = partial(functional.conv2d, x, w, bias, *fixed)
            measured[i, j] = 1000 * _time(run, device)
    return Table.of(axes, measured, (1, 1 if len(axes[1]) == 1 else BLOCK))


def _choose_channels(largest: int) -> list[int]:
    """Return the numbers of channels to time, up to the largest in whole blocks; above one block on
    a log scale."""
    largest = math.ceil(largest / BLOCK) * BLOCK
    if largest <= BLOCK:
        return sorted({*_FEW, largest})
    spaced = np.geomspace(BLOCK, largest, _POINTS) / BLOCK
    blocks: list[int] = np.unique(np.ceil(spaced - 1e-9).astype(int)).tolist()
    return [*_FEW, *(BLOCK * block for block in blocks)]


def _replay(call: Call, device: torch.device, layout: torch.memory_format) -> Callable[[], Any]:
    """Return a function that repeats a call on random tensors of the same shapes."""

    def real(value: Tensor) -> Tensor:
        if value.is_floating_point() or value.is_complex():
            return _draw_tensor(tuple(value.shape), device, layout).to(value.dtype)
        return torch.ones(value.shape, dtype=value.dtype, device=device)  # indices, or divisors

    arguments, options = pytree.tree_map_only(Tensor, real, (call.arguments, call.options))
    return partial(call.function, *arguments, **options)


def _draw_tensor(
    shape: tuple[int, ...], device: torch.device, layout: torch.memory_format
) -> Tensor:
    """Return random positive numbers: running variances must be positive."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    return change_layout(values, layout)  # type: ignore[no-any-return]


def _time(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a run: the lower quartile, which other processes disturb least.

    An asynchronous device gets many runs before each synchronisation, as in a network. A run then
    takes as long as its kernel or its launch, whichever is longer.
    """
    burst = 1 if device.type == "cpu" else _BURST
    with torch.no_grad():
        for _ in range(_WARMUP):
            run()
        seconds: list[float] = []
        while len(seconds) < _FEWEST or (sum(seconds) < _SECONDS and len(seconds) < _MOST):
            wait_for(device)
            start = time.perf_counter()
            for _ in range(burst):
                run()
            wait_for(device)
            seconds.append((time.perf_counter() - start) / burst)
    return float(np.percentile(seconds, 25))
