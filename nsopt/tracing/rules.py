"""What nsopt knows of an ATen operation: its rule, what its schema says, and its fast result.

A rule labels the results, and joins or freezes atoms.

PyTorch splits an operation on fake tensors into many smaller ones, which is slow. The functions in
`RESULTS` take the operation and its arguments, and return empty tensors of the right shape. Cases
that they do not cover, such as sizes that do not fit together, run the operation itself, which then
raises PyTorch's own error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.utils._mode_utils import no_dispatch

Rule = Callable[..., None]
R = TypeVar("R", bound=Rule)
RULES: dict[str, Rule] = {}  # by operation; without a rule, all atoms of its inputs freeze


def rule(*operations: str) -> Callable[[R], R]:
    """Register a function as the rule of ATen operations; a string may name several."""

    def register(function: R) -> R:
        RULES.update(dict.fromkeys(" ".join(operations).split(), function))
        return function

    return register


def _is_pointwise(func: Any, name: str) -> bool:
    """Return whether an operation or its version without in-place update is pointwise."""
    if torch.Tag.pointwise in func.tags or name == "leaky_relu":  # has no tag before PyTorch 2.12
        return True
    packet = getattr(torch.ops.aten, name, None)
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet else []
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)


@dataclass(frozen=True)
class Signature:
    """The parts of an operation's schema that the tracer needs. Reading a schema is slow.

    Attributes:
        namespace: such as `aten`.
        name: such as `add_`.
        operation: the name without the underscore that marks in-place operations.
        is_pointwise: whether each element of the result depends on one element of each argument.
        depends_on_values: whether its result is no function of shapes alone: a number, or a choice.
        copies_shape: whether it takes only type and shape from tensors, as `zeros_like`.
        defaults: name and default value of every argument but `out`, in order.
    """

    namespace: str
    name: str
    operation: str
    is_pointwise: bool
    depends_on_values: bool
    copies_shape: bool
    defaults: tuple[tuple[str, Any], ...]

    def bind(self, args: Any, kwargs: Any) -> list[Any]:
        """Return all arguments in the order of the schema; missing ones have their defaults."""
        return [*args, *(kwargs.get(name, value) for name, value in self.defaults[len(args) :])]


@cache
def read_signature(func: Any) -> Signature:
    """Return the signature of an overload of an operation, such as `aten.add.Tensor`."""
    namespace, name = func._schema.name.split("::")
    in_place = name.endswith("_") and not name.endswith("__")
    operation = name[:-1] if in_place else name
    operation = "view" if operation == "_unsafe_view" else operation  # which one depends on sizes
    defaults = tuple(
        (argument.name, argument.default_value if argument.has_default_value() else None)
        for argument in func._schema.arguments
        if not argument.is_out
    )
    picks = torch.Tag.dynamic_output_shape in func.tags or name == "nms"
    depends = picks or torch.Tag.data_dependent_output in func.tags
    pointwise = _is_pointwise(func, operation)
    shapes = name.endswith("_like") or name.startswith("new_")
    return Signature(namespace, name, operation, pointwise, depends, shapes, defaults)


def _make_empty(
    like: Tensor, *sizes: int, layout: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Return an empty fake tensor of these sizes, with the type of `like`."""
    with no_dispatch():
        empty = torch.empty(sizes, dtype=like.dtype, device="meta", memory_format=layout)
    return FakeTensor(find_mode(), empty, like.device)


def find_mode() -> Any:
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)


def _run_kernel(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Run PyTorch's meta kernel directly, which skips the slow dispatch of fake tensors.

    Fake tensors whose values are known (`constant`) need that dispatch.
    """
    listed = chain(*(a if type(a) is list else [a] for a in args))
    tensors = [a for a in listed if isinstance(a, Tensor)]
    if not tensors or any(getattr(t, "constant", None) is not None for t in tensors):
        return func(*args, **kwargs)
    mode, device = find_mode(), torch.device(kwargs.pop("device", None) or tensors[0].device)
    given = [[*map(_make_meta, a)] if type(a) is list else _make_meta(a) for a in args]
    named = {name: _make_meta(value) for name, value in kwargs.items()}
    with in_kernel_invocation_manager(mode):
        result = func(*given, **named)
    if isinstance(result, Tensor):
        return FakeTensor(mode, result, device)
    return [FakeTensor(mode, part, device) for part in result]


def _make_meta(argument: Any) -> Any:
    """Return a real tensor, such as a parameter, without its values; all else stays."""
    if not isinstance(argument, Tensor) or isinstance(argument, FakeTensor):
        return argument
    with no_dispatch():
        return argument.to("meta")


def _replace_view(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return a view. A view of a real tensor, such as a parameter, is real too."""
    if isinstance(x, FakeTensor):
        return _run_kernel(func, x, *args, **kwargs)
    with no_dispatch():
        return func(x, *args, **kwargs)


def _replace_pointwise(func: Any, x: Any, *others: Any, **kwargs: Any) -> Any:
    """Return an empty tensor like the largest argument if the others broadcast to its shape.

    In-place operations return `x` itself.
    """
    operands = (x, *others, *kwargs.values())
    tensors = [o for o in operands if isinstance(o, Tensor)]
    in_place = func._schema.name.endswith("_")
    if not tensors or getattr(x, "constant", None) is not None:
        return func(x, *others, **kwargs)
    like = x if in_place else max(tensors, key=lambda tensor: (tensor.ndim, tensor.numel()))
    alike = all(
        _broadcasts(o.shape, like.shape)
        and o.dtype == like.dtype
        and (o is like or o.is_contiguous())
        if isinstance(o, Tensor)
        else (like.is_floating_point() and not isinstance(o, complex))
        or (in_place and isinstance(o, int))
        for o in operands
    )
    if in_place:
        return x if alike else func(x, *others, **kwargs)
    if not alike or not like.is_floating_point():
        return _run_kernel(func, x, *others, **kwargs)
    return _make_empty_like(like)


def _broadcasts(source: Sequence[int], target: Sequence[int]) -> bool:
    """Return whether a tensor of shape `source` broadcasts to the shape `target`."""
    sizes = zip(reversed(source), reversed(target), strict=False)
    return len(source) <= len(target) and all(n in (1, size) for n, size in sizes)


def _make_empty_like(x: Tensor) -> Tensor:
    return _make_empty(x, *x.shape) if x.is_contiguous() else _run_kernel(torch.empty_like, x)


def _replace_empty(func: Any, sizes: Any, *args: Any, **kwargs: Any) -> Any:
    if args:
        return func(sizes, *args, **kwargs)
    with no_dispatch():
        empty = func(sizes, **{**kwargs, "device": "meta"})
    return FakeTensor(find_mode(), empty, torch.device(kwargs.get("device") or "cpu"))


def _replace_constant(func: Any, x: Tensor) -> Any:
    """Return the result of `torch.tensor`. The tracer knows its values (tracing/values.py)."""
    return func(x) if isinstance(x, FakeTensor) else _make_empty(x, *x.shape)


def _replace_convolution(
    func: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any
) -> Any:
    stride, padding, dilation, transposed, _output_padding, groups = options
    sizes: list[int] = []
    if len(stride) == len(padding) == len(dilation) == x.ndim - 2 == weight.ndim - 2:
        along = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in along]
    if (
        transposed
        or not (weight.is_contiguous() and x.dtype == weight.dtype)
        or min(sizes, default=0) < 1
        or x.shape[1] != groups * weight.shape[1]
        or len(weight) % groups
        or (bias is not None and bias.shape != weight.shape[:1])
    ):
        return func(x, weight, bias, *options)
    return _make_empty(x, len(x), len(weight), *sizes, layout=suggest_memory_format(x))


def _replace_batch_norm(_: Any, x: Tensor, *__: Any, **___: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _make_empty_like(x), _make_empty(x, x.shape[1]), _make_empty(x, x.shape[1])


def _replace_layer_norm(
    func: Any, x: Tensor, shape: list[int], *parameters: Any, **kwargs: Any
) -> Any:
    shapes = [p.shape for p in (*parameters, *kwargs.values()) if isinstance(p, Tensor)]
    if any(tuple(shape) != tuple(sized) for sized in (x.shape[-len(shape) :], *shapes)):
        return func(x, shape, *parameters, **kwargs)
    lead = (*x.shape[: -len(shape)], *[1] * len(shape))
    return _make_empty(x, *x.shape), _make_empty(x, *lead), _make_empty(x, *lead)


def _replace_product(func: Any, a: Tensor, b: Tensor) -> Any:
    if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2] or a.dtype != b.dtype:
        return func(a, b)
    return _make_empty(a, *a.shape[:-1], b.shape[-1])


def _replace_sum_and_product(func: Any, bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> Any:
    if a.shape[1] != b.shape[0] or bias.shape != b.shape[1:] or a.dtype != b.dtype:
        return func(bias, a, b, **kwargs)
    return _make_empty(a, a.shape[0], b.shape[1])


_VIEWS = (
    "view _unsafe_view t transpose permute expand slice select unsqueeze squeeze split "
    "split_with_sizes unbind detach alias"
)
_KERNELS = (  # those written in Python are slower than the dispatch, which remembers results
    "clone empty_like _softmax _log_softmax native_group_norm index index_select grid_sampler_2d "
    "upsample_bilinear2d upsample_nearest2d upsample_bicubic2d mean sum cat repeat flip "
    "constant_pad_nd mv dot embedding mse_loss clamp max_pool2d_with_indices "
    "_scaled_dot_product_flash_attention_for_cpu _weight_norm_interface"
)
_POINTWISE = (
    "add add_ sub mul mul_ div relu relu_ sigmoid sigmoid_ tanh gelu silu silu_ hardtanh "
    "hardtanh_ hardswish hardswish_ hardsigmoid leaky_relu leaky_relu_ rsqrt pow neg exp"
)
RESULTS: dict[str, Callable[..., Any]] = {
    "convolution": _replace_convolution,
    "native_batch_norm": _replace_batch_norm,
    "native_layer_norm": _replace_layer_norm,
    "mm": _replace_product,
    "addmm": _replace_sum_and_product,
    "bmm": _replace_product,
    "lift_fresh": _replace_constant,
    "empty": _replace_empty,
    **dict.fromkeys(_KERNELS.split(), _run_kernel),
    **dict.fromkeys(_VIEWS.split(), _replace_view),
    **dict.fromkeys(_POINTWISE.split(), _replace_pointwise),
}
