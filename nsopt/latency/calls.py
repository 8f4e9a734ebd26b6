"""Record which torch functions a network calls, with shapes but without computing.

Calls of one `kind` differ only in their channels. One or two sizes (`place`) order the calls of a
kind: the input and output channels of a plain convolution, or the number of elements that any other
function reads and writes. Both are linear in the widths.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from nsopt.models.tracing.states import follow_modules

_CHANNELS = 1


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
    """Return the calls of one forward pass in evaluation mode that compute a tensor, in order."""
    with torch.no_grad():
        meta = model.to("meta").eval()
        images = torch.empty(batch_size, *input_shape, device="meta")
        recorder = _Recorder()
        with follow_modules(meta, recorder.running), recorder:
            meta(images)
    return recorder.calls


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
