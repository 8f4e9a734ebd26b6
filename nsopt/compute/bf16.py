"""Check convolutions in bfloat16 on the CPU, and compute those in float32 that are wrong.

On processors with AMX, oneDNN's forward pass of convolutions with a kernel of 1 x k is wrong for
some even numbers of input channels below 16 and long kernels (PyTorch 2.13): as wrong as random
numbers. Each shape is therefore compared with float32 once, on random numbers.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS: tuple[Callable[..., Any], ...] = (
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
)
_SHORT = 3  # the longest side of kernels that are not compared
_EXAMPLES = 8
_ROUNDING = 0.1  # relative error; that of rounding is below 0.02, that of a wrong kernel about 1
_sound: dict[tuple[Any, ...], bool] = {}  # by shape


class CheckedConvolutions(TorchFunctionMode):
    """Inside bf16 autocast on the CPU: convolutions whose kernel is wrong run in float32."""

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
        x, weight, rest = given.pop("input"), given.pop("weight"), args[3:]
        bias = given.pop("bias", None)
        casts = x.dtype.is_floating_point and x.dtype != torch.float64
        if x.device.type != "cpu" or not casts or max(weight.shape[2:]) <= _SHORT:
            return func(*args, **options)

        def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
            return func(x, weight, bias, *rest, **given)

        if _is_sound(run, (func, *rest, *given.items()), x, weight):
            return func(*args, **options)
        with torch.autocast("cpu", enabled=False):
            exact = run(x.float(), weight.float(), None if bias is None else bias.float())
        return exact.to(torch.bfloat16)


def _is_sound(run: Callable[..., Tensor], call: tuple[Any, ...], x: Tensor, weight: Tensor) -> bool:
    """Return whether bfloat16 gives the values of float32, but for rounding; checked once a shape.

    Args:
        run: the convolution, of an input, a weight and a bias.
        call: what else identifies it.
    """
    is_batch = x.ndim == weight.ndim
    shape = tuple(x.shape[1:] if is_batch else x.shape)
    key = (str(call), shape, tuple(weight.shape), x.dim_order(), torch.is_grad_enabled())
    if key not in _sound:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)
            some = torch.randn_like(x[:_EXAMPLES] if is_batch else x, dtype=torch.bfloat16)
            kernel = torch.randn_like(weight, dtype=torch.bfloat16)
        _sound[key] = _compute_error(run, some, kernel) < _ROUNDING
        if not _sound[key] and list(_sound.values()).count(False) == 1:
            warnings.warn(
                "this processor computes some convolutions wrongly in bfloat16 (the first has "
                f"weights of {'x'.join(map(str, weight.shape))}): nsopt computes these in float32",
                stacklevel=2,
            )
    return _sound[key]


def _compute_error(run: Callable[..., Tensor], x: Tensor, weight: Tensor) -> float:
    """Return the largest relative error of the output and of both gradients."""
    computed = _differentiate(run, x, weight)
    with torch.autocast("cpu", enabled=False):
        exact = _differentiate(run, x.float(), weight.float())
    pairs = zip(computed, exact, strict=True)
    return max(float((value.float() - right).norm() / right.norm()) for value, right in pairs)


def _differentiate(run: Callable[..., Tensor], x: Tensor, weight: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of its sum of squares if torch records them."""
    if not torch.is_grad_enabled():
        return [run(x, weight, None)]
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    output = run(x, weight, None)
    return [output.detach(), *torch.autograd.grad(output, (x, weight), output.detach())]
