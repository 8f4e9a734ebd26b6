"""Convolutions in bfloat16 on the CPU are right, also where oneDNN's kernels are wrong."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.compute.device import Compute

BF16 = Compute(torch.device("cpu"), bf16=True)


def differentiate(convolution: Any, *tensors: Tensor, **options: Any) -> list[Tensor]:
    """Return an output and the gradients of its sum of squares, as float32."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = convolution(*leaves, **options)
    loss = output.float().square().sum()
    return [output.detach().float(), *torch.autograd.grad(loss, leaves)]


def fill_free_memory_with_nan() -> None:
    """Let the arrays that are allocated next hold NaN before they are written."""
    _ = [torch.full((2**power,), torch.nan) for power in range(8, 20)]


SHAPES = [(8, 8, 32), (14, 6, 64), (117, 181, 64), (111, 80, 64), (96, 48, 100), (34, 50, 128)]


@pytest.mark.parametrize(("in_channels", "out_channels", "kernel"), SHAPES)
@pytest.mark.parametrize("dimensions", ["k", "1xk", "kx1"])
@pytest.mark.parametrize("batch", [1, 4])
def test_long_convolutions_are_right_in_bf16(
    in_channels: int, out_channels: int, kernel: int, dimensions: str, batch: int
) -> None:
    """On processors with AVX512-BF16 or AMX this fails where they run in bfloat16."""
    torch.manual_seed(0)
    x = torch.randn(batch, in_channels, kernel + 31)
    weight = torch.randn(out_channels, in_channels, kernel) / (in_channels * kernel) ** 0.5
    bias = torch.randn(out_channels)
    convolution: Any = functional.conv1d
    if dimensions != "k":
        convolution = functional.conv2d
        axis = 2 if dimensions == "1xk" else 3
        x, weight = x.unsqueeze(axis), weight.unsqueeze(axis)
    exact = differentiate(convolution, x, weight, bias)
    if dimensions != "k":
        x, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (x, weight))
    for _ in range(3):
        fill_free_memory_with_nan()
        with BF16.autocast():
            rounded = differentiate(convolution, x, weight, bias)
        for value, right in zip(rounded, exact, strict=True):
            assert float((value - right).norm() / right.norm()) < 0.02


def test_long_kernels_are_computed_in_float32_and_the_others_in_bfloat16() -> None:
    torch.manual_seed(0)
    x, errors = torch.randn(2, 4, 20, 20), []
    for kernel in (7, 8):
        module = nn.Conv2d(4, 3, (kernel, 1), padding=(2, 0))
        with BF16.autocast():
            output = module(x)
        assert output.dtype == torch.bfloat16
        exact = module(x).to(torch.bfloat16)
        errors.append(float((output.float() - exact.float()).detach().abs().max()))
    assert errors[0] > 0
    assert errors[1] == 0


def test_arguments_by_name_or_place_and_other_types_stay_as_they_are() -> None:
    x, weight, bias = torch.randn(2, 4, 40), torch.randn(6, 2, 9), torch.randn(6)
    exact = functional.conv1d(x, weight, bias, 2, 3, 1, 2)
    with BF16.autocast():
        by_place = functional.conv1d(x, weight, bias, 2, 3, 1, 2)
        by_name = functional.conv1d(
            x, weight=weight, bias=bias, stride=2, padding=3, dilation=1, groups=2
        )
        doubled = functional.conv1d(x.double(), weight.double(), None, 2, 3, 1, 2)
        transposed = functional.conv_transpose1d(x, torch.randn(4, 3, 9))
    assert torch.equal(by_place, exact.to(torch.bfloat16))
    assert torch.equal(by_name, by_place)
    assert doubled.dtype == torch.float64
    assert transposed.shape == (2, 3, 48)
    assert transposed.dtype == torch.bfloat16
