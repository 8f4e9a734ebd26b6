"""Convolutions in bfloat16 on the CPU are right, also on processors whose kernels are wrong."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nsopt.compute import bf16
from nsopt.compute.device import Compute

BF16 = Compute(torch.device("cpu"), bf16=True)


class WrongProcessor(TorchFunctionMode):
    """Simulates AMX with PyTorch 2.13: forward passes of 1 x k kernels give random numbers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in (torch.conv1d, torch.conv2d) or result.dtype != torch.bfloat16:
            return result
        weight = args[1]
        if weight.shape[1] % 2 or weight.shape[1] >= 16 or weight.shape[-1] < 16:
            return result
        return result + result.detach().roll(1, dims=0) * 1.1


@pytest.fixture(autouse=True)
def _nothing_is_checked_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "_sound", {})


def compute_error(module: nn.Module, x: Tensor, gradients: bool = True) -> float:
    """Return the relative error of an output in bf16, as nsopt computes it."""
    exact = module(x)
    with torch.set_grad_enabled(gradients), BF16.autocast():
        found = module(x)
    assert found.dtype == torch.bfloat16
    return float((found.float() - exact).detach().norm() / exact.detach().norm())


SHAPES = [(channels, kernel) for channels in (2, 8, 14) for kernel in (32, 64)]


@pytest.mark.filterwarnings("ignore:this processor computes some convolutions wrongly")
@pytest.mark.parametrize(("channels", "kernel"), SHAPES)
def test_long_convolutions_are_right_in_bf16(channels: int, kernel: int) -> None:
    """On a processor with AMX this fails without the check."""
    torch.manual_seed(0)
    x = torch.randn(4, channels, 96)
    assert compute_error(nn.Conv1d(channels, 8, kernel), x) < 0.02
    assert compute_error(nn.Conv2d(channels, 8, (1, kernel)), x[:, :, None]) < 0.02


@pytest.mark.parametrize("gradients", [True, False])
def test_a_wrong_kernel_is_replaced_by_float32_with_one_message(gradients: bool) -> None:
    torch.manual_seed(0)
    right, wrong = nn.Conv1d(9, 8, 32), nn.Conv2d(8, 6, (1, 32), padding=(0, 16), bias=False)
    with WrongProcessor():
        with pytest.warns(UserWarning, match="weights of 6x8x1x32.*computes these in float32"):
            error = compute_error(wrong, torch.randn(4, 8, 1, 48), gradients)
        assert error < 0.01
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert compute_error(right, torch.randn(4, 9, 40), gradients) < 0.02
            assert compute_error(nn.Conv1d(2, 5, 40), torch.randn(3, 2, 80), gradients) < 0.01
    assert list(bf16._sound.values()) == [False, True, False]
    with BF16.autocast():
        assert functional.conv1d(torch.randn(2, 9, 40), weight=right.weight).shape == (2, 8, 9)


def test_gradients_flow_through_a_replaced_kernel() -> None:
    torch.manual_seed(0)
    module, x = nn.Conv1d(4, 3, 16), torch.randn(5, 4, 32, requires_grad=True)
    expected = torch.autograd.grad(module(x).square().sum(), (x, *module.parameters()))
    with WrongProcessor(), pytest.warns(UserWarning, match="float32"), BF16.autocast():
        loss = module(x).float().square().sum()
    for found, right in zip(
        torch.autograd.grad(loss, (x, *module.parameters())), expected, strict=True
    ):
        assert float((found - right).norm() / right.norm()) < 0.01


def test_a_shape_is_checked_once_and_the_users_random_numbers_stay() -> None:
    module, x = nn.Conv2d(3, 4, 4), torch.randn(20, 3, 8, 8)
    before = torch.get_rng_state()
    with BF16.autocast():
        functional.conv2d(x, torch.ones(4, 3, 3, 3))  # short kernels are right
        assert not bf16._sound
        module(x)
        assert len(bf16._sound) == 1
        module(x[:3])
        assert len(bf16._sound) == 1
        module(x[:, :, :5])
        assert len(bf16._sound) == 2
    assert torch.equal(before, torch.get_rng_state())
