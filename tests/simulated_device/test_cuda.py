"""What runs on a GPU gives what runs on the CPU, and is placed where it belongs."""

from collections.abc import Iterator

import pytest
import torch

import nsopt
from nsopt.data.images import ImageData
from nsopt.latency import kernels
from nsopt.training.loop import train
from nsopt.training.settings import TrainSettings
from tests.simulated_device.simulation import SimulatedDevices

SHORT = TrainSettings(epochs=2, batch_size=64, lr=0.05, device="cpu", precision="fp32")


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """In float64, so that the order of a sum changes nothing."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_training_is_that_of_the_cpu(
    narrow: nsopt.Architecture, digits: ImageData, cuda: SimulatedDevices
) -> None:
    widths = narrow.base_widths
    here, there = (
        train(narrow, widths, digits, SHORT.updated(device=device)) for device in ("cpu", "cuda")
    )
    tensors = dict(there.model.state_dict())
    assert {tensor.device for tensor in tensors.values()} == {torch.device("cuda:0")}
    assert there.losses == pytest.approx(here.losses, rel=1e-4)


def test_kernels_are_timed_many_in_a_row(cuda: SimulatedDevices) -> None:
    """Waiting for a GPU, which takes longer than a small kernel, hardly counts."""
    runs: list[int] = []
    assert kernels._seconds(lambda: runs.append(1), torch.device("cuda")) > 0
    assert 0 < 5 * len(cuda.places("wait")) < len(runs)
