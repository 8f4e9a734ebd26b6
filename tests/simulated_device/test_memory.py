"""The memory of a GPU, and when a process waits for the device."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nsopt import Architecture, ImageData, SearchSettings, Silent, TrainSettings, measure_latency
from nsopt.compute.checkpoint import Checkpoint
from nsopt.compute.device import Compute, is_out_of_memory, place, resolve_compute
from nsopt.errors import OutOfMemoryError
from nsopt.pruning.engine import iterative_prune
from nsopt.tasks.classification import AccuracyEvaluation, Classification
from nsopt.tasks.supervise import place_images
from nsopt.tasks.task import Task, TaskSupervision
from nsopt.training.loop import train_configuration
from tests.rescaled import with_base_widths
from tests.simulated_device.simulation import SimulatedDevices

SHORT = TrainSettings(epochs=2, batch_size=128, lr=0.05, device="cuda", precision="fp32")


@pytest.fixture
def tiny(narrow: Architecture) -> Architecture:
    return with_base_widths(narrow, (4,) * len(narrow.base_widths))


@pytest.fixture
def compute(cuda: SimulatedDevices) -> Compute:
    return resolve_compute("cuda", "fp32")


def test_a_process_does_not_wait_for_the_device_after_every_batch(
    tiny: Architecture, digits: ImageData, cuda: SimulatedDevices, compute: Compute
) -> None:
    splits = place_images(digits.split(0.1), compute)
    cuda.events.clear()
    how = Classification(splits), SHORT, compute, Silent(), None
    train_configuration(tiny, tiny.base_widths, *how)
    trained = len(cuda.places("wait"))
    settings = SearchSettings(pretrain_epochs=9, batch_size=128)
    supervision, batches = Classification(splits), itertools.count(1)

    def end_soon(*_: Any) -> None:
        if next(batches) == 6:
            raise TimeoutError

    rest = supervision, settings, compute, Silent()
    with pytest.raises(TimeoutError):
        iterative_prune(tiny, tiny.base_widths, *rest, after_batch=end_soon)
    assert trained <= 2
    assert len(cuda.places("wait")) - trained <= 1


def test_an_evaluation_uses_batches_that_fit(
    tiny: Architecture, digits: ImageData, cuda: SimulatedDevices, compute: Compute
) -> None:
    """25 of the 40 images fit; a training with batches of 16 gives the same result."""
    few = Classification(place_images(digits.split(0.1).with_train_images(40), compute))
    settings = SHORT.updated(batch_size=16, epochs=1)
    train = partial(train_configuration, tiny, tiny.base_widths, few, settings, compute, Silent())
    expected = train(None)
    cuda.largest = 26 * 4 * 32 * 32 * 4
    assert train(None).epochs == expected.epochs


def test_no_batch_size_is_suggested_if_a_single_image_does_not_fit(
    tiny: Architecture, digits: ImageData, cuda: SimulatedDevices, compute: Compute
) -> None:
    splits = place_images(digits.split(0.1), compute)
    model = place(tiny.build(tiny.base_widths), compute.device, torch.channels_last)
    evaluation = AccuracyEvaluation(splits.test, splits, compute)
    cuda.largest = 1000
    with pytest.raises(OutOfMemoryError, match="cuda has no memory left for evaluating a single"):
        evaluation.advance(model)


@pytest.mark.parametrize("resized_crop", [None, 0.4])
def test_results_do_not_depend_on_where_the_images_are(
    tiny: Architecture,
    digits: ImageData,
    cuda: SimulatedDevices,
    compute: Compute,
    resized_crop: float | None,
) -> None:
    """Images that need more than a tenth of the free memory stay on the CPU."""
    outcomes = []
    for free, device in ((10**9, "cuda"), (10 * 100 * 32 * 32, "cpu")):
        cuda.free = free
        splits = place_images(digits.split(0.1), compute)
        assert splits.train.stored.device.type == device
        assert splits.test.stored.device.type == "cuda"
        settings = SHORT.updated(epochs=1, resized_crop=resized_crop)
        outcomes.append(
            train_configuration(
                tiny,
                tiny.base_widths,
                Classification(splits, resized_crop),
                settings,
                compute,
                Silent(),
                None,
            ).epochs
        )
    assert outcomes[0] == outcomes[1]
    assert splits.train.stored is digits.train.stored


def test_a_full_device_is_not_reported_as_missing(cuda: SimulatedDevices) -> None:
    cuda.largest = 0
    with pytest.raises(OutOfMemoryError, match="device cuda has no memory left"):
        resolve_compute("cuda", "fp32")


def test_the_error_of_a_full_device_names_what_was_moved(
    tiny: Architecture, digits: ImageData, cuda: SimulatedDevices, compute: Compute, tmp_path: Path
) -> None:
    network, file = tiny.build(tiny.base_widths), Checkpoint(tmp_path / "network.pt", {})
    file.save(network.state_dict())
    cuda.largest = 100
    moves: dict[str, Callable[[], object]] = {
        "the network": lambda: place(network, compute.device, torch.channels_last),
        "the images": lambda: place_images(digits.split(0.1), compute),
        "checkpoint .*network.pt": lambda: file.load(compute.device),
        "timing batches of 7": lambda: measure_latency(
            nn.ReLU(), tiny.input_shape, batch_size=7, device="cuda"
        ),
    }
    for what, move in moves.items():
        with pytest.raises(OutOfMemoryError, match=f"cuda.* has no memory left for {what}: stop"):
            move()


def test_a_search_that_does_not_fit_suggests_a_smaller_batch(
    tiny: Architecture, digits: ImageData, cuda: SimulatedDevices, compute: Compute
) -> None:
    splits, settings = place_images(digits.split(0.1), compute), SearchSettings(batch_size=128)
    loader = [(torch.zeros(128, *tiny.input_shape), torch.zeros(128, dtype=torch.int64))]
    task = Task(loader, cross_entropy)
    cuda.largest = splits.train.stored.nbytes
    for supervision, advice in (
        (Classification(splits), "with batches of 128: try batch_size=64"),
        (TaskSupervision(task, compute.device), "the loader: give it a smaller"),
    ):
        with pytest.raises(OutOfMemoryError, match=advice):
            iterative_prune(tiny, tiny.base_widths, supervision, settings, compute, Silent())


def test_a_library_that_cannot_start_on_a_full_device_is_out_of_memory(
    cuda: SimulatedDevices, compute: Compute
) -> None:
    error = RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED")
    assert not is_out_of_memory(error, compute.device)
    cuda.free = 2**20
    assert is_out_of_memory(error, compute.device)
