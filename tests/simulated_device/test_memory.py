"""What is done about the memory of a GPU, and when a process waits for it."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.device_lock import DeviceLock
from nsopt.data.images import ImageData
from nsopt.models.architecture import TableArchitecture
from nsopt.progress import Silent
from nsopt.pruning.engine import iterative_prune
from nsopt.pruning.settings import SearchSettings
from nsopt.training.loop import train_configuration
from nsopt.training.settings import TrainSettings
from nsopt.training.supervision import Classification
from tests.simulated_device.simulation import SimulatedDevices

SHORT = TrainSettings(epochs=2, batch_size=128, lr=0.05, device="cuda", precision="fp32")


@pytest.fixture
def tiny(narrow: TableArchitecture) -> TableArchitecture:
    return dataclasses.replace(narrow, base_widths=(4,) * len(narrow.base_widths))


@pytest.fixture
def compute(cuda: SimulatedDevices, tmp_path: Path) -> Compute:
    """A device that is shared with processes that do nothing now."""
    return Compute(
        resolve_compute("cuda", "fp32").device, bf16=False, lock=DeviceLock(tmp_path, "cuda")
    )


def test_a_shared_device_is_not_waited_for_after_every_batch(
    tiny: TableArchitecture, digits: ImageData, cuda: SimulatedDevices, compute: Compute
) -> None:
    splits = digits.split(0.1).to(compute.device)
    train_configuration(tiny, tiny.base_widths, splits, SHORT, compute, Silent(), None)
    trained = len(cuda.places("wait"))
    settings = SearchSettings(pretrain_epochs=9, batch_size=128)
    supervision, batches = Classification(splits), itertools.count(1)

    def end_soon(*_: Any) -> None:
        if next(batches) == 6:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        iterative_prune(
            *(tiny, tiny.base_widths, supervision, settings, compute, Silent()),
            after_batch=end_soon,
        )
    assert trained <= 2
    assert len(cuda.places("wait")) - trained <= 1
