"""What operations return, as empty tensors: those that fake tensors would take apart, slowly.

Each function gets the operation and its arguments. Where the sizes do not fit it runs the
operation, which says so.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _batch_norm(_: Any, x: Tensor, *__: Any, **___: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


def _layer_norm(func: Any, x: Tensor, shape: list[int], *parameters: Any, **more: Any) -> Any:
    own = [p for p in (*parameters, *more.values()) if isinstance(p, Tensor)]
    if any(
        tuple(shape) != tuple(sized) for sized in (x.shape[-len(shape) :], *(p.shape for p in own))
    ):
        return func(x, shape, *parameters, **more)
    lead = (*x.shape[: -len(shape)], *[1] * len(shape))
    return torch.empty_like(x).contiguous(), x.new_empty(lead), x.new_empty(lead)


def _product(func: Any, a: Tensor, b: Tensor) -> Any:
    if a.shape[1] != b.shape[0] or a.dtype != b.dtype:
        return func(a, b)
    return a.new_empty(a.shape[0], b.shape[1])


def _sum_and_product(func: Any, bias: Tensor, a: Tensor, b: Tensor, **more: Any) -> Any:
    if a.shape[1] != b.shape[0] or bias.shape != b.shape[1:] or a.dtype != b.dtype:
        return func(bias, a, b, **more)
    return a.new_empty(a.shape[0], b.shape[1])


RESULTS: dict[str, Callable[..., Any]] = {
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "mm": _product,
    "addmm": _sum_and_product,
}
