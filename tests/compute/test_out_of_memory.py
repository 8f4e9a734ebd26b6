"""Errors with which PyTorch and the libraries below it report that memory ran out."""

import pytest
import torch

from nsopt.compute.device import is_out_of_memory

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
