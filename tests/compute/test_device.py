"""Devices, random numbers, memory and bfloat16: what a computation needs of a machine."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.compute.device import (
    Compute,
    OwnRandomState,
    is_out_of_memory,
    nth_device,
    resolve_compute,
    use_seed,
)


def test_workers_take_cuda_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    devices = [str(nth_device(torch.device("cuda", 1), number)) for number in range(1, 4)]
    assert devices == ["cuda:2", "cuda:0", "cuda:1"]
    assert nth_device(torch.device("cpu"), 2) == torch.device("cpu")


def test_a_measurement_uses_all_threads() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        compute = resolve_compute("cpu", "fp32")
        torch.set_num_threads(1)
        with compute.all_threads():
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.59 GB, max allowed: 18.13 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 144115188075855872 bytes. Error code 12"
        ),
        RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried"),
    ],
    ids=str,
)
def test_out_of_memory_errors_are_recognised(error: Exception) -> None:
    assert is_out_of_memory(error, CPU)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        ValueError("out of memory"),
    ],
    ids=str,
)
def test_other_errors_do_not_count_as_out_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error, CPU)


BACKENDS: Any = torch.backends


@pytest.fixture
def fp32_precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """The user's setting of how torch multiplies float32 numbers."""
    BACKENDS.fp32_precision = request.param
    yield request.param
    BACKENDS.fp32_precision = "none"


@pytest.mark.parametrize("fp32_precision", ["none", "ieee", "tf32"], indirect=True)
def test_seeding_changes_only_two_cudnn_settings_and_restores_them(fp32_precision: str) -> None:
    cudnn = BACKENDS.cudnn
    before = cudnn.benchmark, cudnn.deterministic, cudnn.enabled, read_rounding()
    cudnn.benchmark, cudnn.enabled = True, False
    try:
        with use_seed(0, CPU), OwnRandomState(0, CPU).in_use():
            assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
            assert not cudnn.enabled
            assert read_rounding() == before[-1]
        assert (cudnn.benchmark, cudnn.deterministic) == (True, before[1])
        assert read_rounding() == before[-1]
    finally:
        cudnn.benchmark, cudnn.enabled = before[0], before[2]


def read_rounding() -> list[str]:
    """Return how torch rounds products and convolutions on CUDA."""
    return [
        BACKENDS.fp32_precision,
        BACKENDS.cuda.matmul.fp32_precision,
        BACKENDS.cudnn.conv.fp32_precision,
        BACKENDS.cudnn.rnn.fp32_precision,
    ]


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
        how = {"stride": 2, "padding": 3, "dilation": 1, "groups": 2}
        by_name = functional.conv1d(x, weight=weight, bias=bias, **how)
        doubled = functional.conv1d(x.double(), weight.double(), None, 2, 3, 1, 2)
        transposed = functional.conv_transpose1d(x, torch.randn(4, 3, 9))
    assert torch.equal(by_place, exact.to(torch.bfloat16))
    assert torch.equal(by_name, by_place)
    assert doubled.dtype == torch.float64
    assert transposed.shape == (2, 3, 48)
    assert transposed.dtype == torch.bfloat16
