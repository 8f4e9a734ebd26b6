"""Results on a GPU equal those on the CPU, and tensors are on the right device."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
import torch

import nsopt
from nsopt import ImageData, train
from nsopt.compute.device import use_seed
from nsopt.methods.built_in import Magnitude
from nsopt.models.imported import import_architecture
from nsopt.pruning.ranking import rank_filters
from tests.simulated_device.networks import SEARCH, TRAINING, devices_of, dropping
from tests.simulated_device.simulation import SimulatedDevices

T = TypeVar("T")
CUDA = torch.device("cuda:0")


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Compute in float64, so that the order of a sum changes nothing."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def run_on_both(run: Callable[[str], T]) -> tuple[T, T]:
    """Return the results on the CPU and on the device."""
    return run("cpu"), run("cuda")


def test_a_training_equals_that_on_the_cpu(
    arch: nsopt.Architecture, images: ImageData, cuda: SimulatedDevices
) -> None:
    here, there = run_on_both(
        lambda device: train(arch, arch.base_widths, images, TRAINING.updated(device=device))
    )
    assert there.losses == pytest.approx(here.losses, rel=1e-9)
    assert there.test_accuracy == here.test_accuracy
    assert devices_of(there.model) == {CUDA}


def test_no_batch_is_copied_to_the_host(
    arch: nsopt.Architecture, images: ImageData, cuda: SimulatedDevices
) -> None:
    found = []
    for batch_size in (8, 16):
        cuda.events.clear()
        settings = TRAINING.updated(device="cuda", batch_size=batch_size)
        train(arch, arch.base_widths, images, settings)
        found.append(Counter((e.kind, e.place) for e in cuda.events))
    assert found[0] == found[1]


def test_a_subset_of_images_stays_on_its_device(images: ImageData, cuda: SimulatedDevices) -> None:
    there = images.train.to(CUDA).first_of_each(3)
    assert there.images.device == there.labels.device == CUDA
    here = images.train.first_of_each(3)
    torch.testing.assert_close(there.images.cpu(), here.images)
    assert there.labels.tolist() == here.labels.tolist()
    again = ImageData.from_arrays(*[(there.images, there.labels)] * 2)
    torch.testing.assert_close(again.train.images, here.images)


def test_a_search_equals_that_on_the_cpu(
    arch: nsopt.Architecture, images: ImageData, cuda: SimulatedDevices
) -> None:
    here, there = run_on_both(
        lambda device: nsopt.search(arch, images, SEARCH.updated(device=device)).iterations[0]
    )
    assert len(here.record.tau) >= 6
    assert there.record.widths.tolist() == here.record.widths.tolist()
    assert there.law.to_dict() == here.law.to_dict()


def test_magnitude_pruning_equals_that_on_the_cpu(
    arch: nsopt.Architecture, images: ImageData, cuda: SimulatedDevices
) -> None:
    trained = train(arch, arch.base_widths, images, TRAINING).model
    started = []
    for device in ("cpu", "cuda"):
        model = copy.deepcopy(trained).to(device)
        cost = arch.cost("params")
        widths = rank_filters(arch, model).widths_within(cost, cost(arch.base_widths) / 2)
        torch.manual_seed(0)
        start = Magnitude().start(arch, widths, model)
        again = Magnitude().start(arch, widths, start)
        assert devices_of(again) == devices_of(model)
        started.append((widths, {n: t.cpu() for n, t in start.state_dict().items()}))
    torch.testing.assert_close(started[1], started[0], rtol=0, atol=0)


def test_seeding_touches_only_one_device(images: ImageData, two_cuda: SimulatedDevices) -> None:
    """The generators of all devices are restored, and dropout depends on the seed."""
    before = [generator.get_state().tolist() for generator in two_cuda.generators]
    arch = nsopt.trace(dropping(), torch.randn(2, 1, 32, 32))
    settings = TRAINING.updated(device="cuda:1")
    one, two = (train(arch, arch.base_widths, images, settings) for _ in range(2))
    assert one.losses == two.losses
    assert [generator.get_state().tolist() for generator in two_cuda.generators] == before
    with use_seed(3, torch.device("cuda:1")):
        seeds = [generator.initial_seed() for generator in two_cuda.generators]
    assert seeds[1] == 3 != seeds[0]


def test_importing_a_network_leaves_random_states_alone(two_cuda: SimulatedDevices) -> None:
    before = [generator.get_state().tolist() for generator in two_cuda.generators]
    import_architecture("tests.simulated_device.networks:small", 2, 32, 1)
    assert [generator.get_state().tolist() for generator in two_cuda.generators] == before
