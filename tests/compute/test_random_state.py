"""Random numbers, and the settings of torch that belong to the user."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from nsopt.compute.random_state import OwnRandomState, use_seed

CPU = torch.device("cpu")
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
