"""Compute convolutions with long kernels in float32 where the CPU computes in bfloat16.

oneDNN's bfloat16 kernels (PyTorch 2.13) read beyond their arrays for some numbers of channels and
long kernels: k x 1 in `channels_last` from k = 28 on with AVX-512, 1 x k from k = 16 on with AMX.
The same call is right, as wrong as random numbers, or NaN, by what the memory held before, so that
no trial run tells. Kernels of up to `_LONGEST` a side were right in all of many thousand calls.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS: tuple[Callable[..., Any], ...] = (
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
)
_LONGEST = 7


class LongConvolutionsInFloat32(TorchFunctionMode):
    """Inside bf16 autocast on the CPU: kernels longer than `_LONGEST` are computed in float32."""

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
        if x.device.type != "cpu" or not casts or max(weight.shape[2:]) <= _LONGEST:
            return func(*args, **options)
        bias = None if bias is None else bias.float()
        with torch.autocast("cpu", enabled=False):
            exact = func(x.float(), weight.float(), bias, *args[3:], **given)
        return exact.to(torch.bfloat16)
