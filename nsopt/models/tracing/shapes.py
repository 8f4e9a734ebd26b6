"""Fast replacements of operations on fake tensors, which return empty results of the right shape.

Fake tensors would split these operations into many smaller ones, which is slow. Each function takes
the operation and its arguments. If the sizes do not fit, it runs the operation itself, which
raises PyTorch's error.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.utils._mode_utils import no_dispatch


def _make_empty(like: Tensor, *sizes: int) -> Tensor:
    """Return an empty tensor of these sizes, by a shortcut if `like` is a fake tensor."""
    if not isinstance(like, FakeTensor):
        return like.new_empty(sizes)
    with no_dispatch():
        return FakeTensor(
            like.fake_mode, torch.empty(sizes, dtype=like.dtype, device="meta"), like.device
        )


def _view(func: Any, x: Tensor, *args: Any, **more: Any) -> Any:
    """Return a view of a fake tensor directly from PyTorch's meta kernel.

    Other tensors, and fake ones whose values are known, take the usual way.
    """
    if not isinstance(x, FakeTensor) or x.constant is not None:
        return func(x, *args, **more)
    with in_kernel_invocation_manager(x.fake_mode):
        result = func(x, *args, **more)
    if isinstance(result, Tensor):
        return FakeTensor(x.fake_mode, result, x.fake_device)
    return [FakeTensor(x.fake_mode, each, x.fake_device) for each in result]


def _pointwise(func: Any, x: Any, *others: Any, **more: Any) -> Any:
    """Return a result like `x` if the other arguments are numbers or tensors of its shape.

    Operations whose names end with an underscore return `x` itself.
    """
    if not isinstance(x, Tensor) or getattr(x, "constant", None) is not None:
        return func(x, *others, **more)
    in_place = func._schema.name.endswith("_")
    alike = all(
        o.shape == x.shape and o.dtype == x.dtype and o.is_contiguous()
        if isinstance(o, Tensor)
        else x.is_floating_point() or (in_place and isinstance(o, int))
        for o in (*others, *more.values())
    )
    if not alike or not (x.is_floating_point() or in_place):
        return func(x, *others, **more)
    return x if in_place else _make_empty_like(x)


def _batch_of_products(func: Any, a: Tensor, b: Tensor) -> Any:
    if a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1] or a.dtype != b.dtype:
        return func(a, b)
    return _make_empty(a, *a.shape[:2], b.shape[2])


def _concatenation(func: Any, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    first = tensors[0]
    sizes = list(first.shape)
    others = [[n for d, n in enumerate(t.shape) if d != dim % first.ndim] for t in tensors]
    if any(
        other != others[0] or t.ndim != first.ndim or t.dtype != first.dtype
        for t, other in zip(tensors, others, strict=True)
    ) or not all(t.is_contiguous() for t in tensors):
        return func(tensors, dim)
    sizes[dim] = sum(t.shape[dim] for t in tensors)
    return _make_empty(first, *sizes)


def _make_empty_like(x: Tensor) -> Tensor:
    return _make_empty(x, *x.shape) if x.is_contiguous() else torch.empty_like(x)


def _convolution(
    func: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    sizes: list[int] = []
    if len(stride) == len(padding) == len(dilation) == x.ndim - 2 == weight.ndim - 2:
        along = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in along]
    if (
        transposed
        or not (x.is_contiguous() and weight.is_contiguous() and x.dtype == weight.dtype)
        or min(sizes, default=0) < 1
        or x.shape[1] != groups * weight.shape[1]
        or len(weight) % groups
        or (bias is not None and bias.shape != weight.shape[:1])
    ):
        return func(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    return _make_empty(x, len(x), len(weight), *sizes)


def _batch_norm(_: Any, x: Tensor, *__: Any, **___: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _make_empty_like(x), _make_empty(x, x.shape[1]), _make_empty(x, x.shape[1])


def _layer_norm(func: Any, x: Tensor, shape: list[int], *parameters: Any, **more: Any) -> Any:
    own = [p for p in (*parameters, *more.values()) if isinstance(p, Tensor)]
    if any(
        tuple(shape) != tuple(sized) for sized in (x.shape[-len(shape) :], *(p.shape for p in own))
    ):
        return func(x, shape, *parameters, **more)
    lead = (*x.shape[: -len(shape)], *[1] * len(shape))
    return _make_empty(x, *x.shape), _make_empty(x, *lead), _make_empty(x, *lead)


def _product(func: Any, a: Tensor, b: Tensor) -> Any:
    if a.shape[1] != b.shape[0] or a.dtype != b.dtype:
        return func(a, b)
    return _make_empty(a, a.shape[0], b.shape[1])


def _sum_and_product(func: Any, bias: Tensor, a: Tensor, b: Tensor, **more: Any) -> Any:
    if a.shape[1] != b.shape[0] or bias.shape != b.shape[1:] or a.dtype != b.dtype:
        return func(bias, a, b, **more)
    return _make_empty(a, a.shape[0], b.shape[1])


_VIEWS = (
    "view _unsafe_view t transpose permute expand slice select unsqueeze squeeze split "
    "split_with_sizes unbind detach"
)
_POINTWISE = (
    "add add_ sub mul mul_ div relu relu_ sigmoid sigmoid_ tanh gelu silu silu_ hardtanh "
    "hardtanh_ hardswish hardswish_ hardsigmoid leaky_relu leaky_relu_"
)
RESULTS: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "mm": _product,
    "addmm": _sum_and_product,
    "bmm": _batch_of_products,
    "cat": _concatenation,
    **dict.fromkeys(_VIEWS.split(), _view),
    **dict.fromkeys(_POINTWISE.split(), _pointwise),
}
