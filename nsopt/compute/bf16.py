"""Compute convolutions with long kernels in float32 where the CPU computes in bfloat16.

oneDNN (PyTorch 2.13) reads beyond its arrays for some numbers of channels and long kernels: k x 1
in `channels_last` from k = 28 on with AVX-512, 1 x k from k = 16 on with AMX. In bfloat16 the same
call is right, as wrong as random numbers, or NaN, by what the memory held before, so that no trial
run tells. Kernels of up to `LONGEST_KERNEL` a side were right in all of many thousand calls.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nsopt.models.layout import LONGEST_KERNEL

_CONVOLUTIONS: tuple[Callable[..., Any], ...] = (
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
)


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
    """Return a tensor in float32, channels first: see `models.layout`."""
    return None if tensor is None else tensor.float().contiguous()
