"""The simulated device keeps the rules of a real one."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from tests.simulated_device.simulation import SimulatedDevices


def test_tensors_of_two_devices_cannot_be_mixed(cuda: SimulatedDevices) -> None:
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    with pytest.raises(RuntimeError, match="at least two devices"):
        there + here
    with pytest.raises(RuntimeError, match="at least two devices"):
        here[torch.zeros(1, dtype=torch.int64, device="cuda")]
    assert (there + here.sum()).device == torch.device("cuda:0")  # numbers may be anywhere
    assert there[torch.zeros(1, dtype=torch.int64)].device.type == "cuda"


def test_numpy_refuses_tensors_on_the_device(cuda: SimulatedDevices) -> None:
    there = torch.ones(3, device="cuda")
    for convert in (np.asarray, torch.Tensor.numpy):
        with pytest.raises(TypeError, match="to numpy"):
            convert(there)
    np.testing.assert_array_equal(there.cpu().numpy(), np.ones(3))


def test_mps_has_no_float64(mps: SimulatedDevices) -> None:
    with pytest.raises(TypeError, match="float64"):
        torch.ones(3, device="mps").double()
    assert torch.ones(3, device="mps").cpu().double().dtype == torch.float64


def test_copies_and_waits_are_logged(cuda: SimulatedDevices) -> None:
    there = torch.ones(3).to("cuda")
    assert [event.kind for event in cuda.events] == ["to device"]
    float(there.sum())
    there.cpu()
    there.tolist()
    there[there > 0]
    assert cuda.places("to host") == ["outside"] * 4
    torch.cuda.synchronize()
    assert cuda.events[-1].kind == "wait"


def test_a_network_moves_trains_and_is_saved_as_on_a_real_device(cuda: SimulatedDevices) -> None:
    """Its gradients equal those on the CPU, and tied weights stay tied."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 16))
    model.add_module("tied", nn.Linear(16, 16))
    model[4].weight = model[3].weight
    images, other = torch.randn(5, 1, 4, 4), copy.deepcopy(model)
    parameters = list(other.parameters())
    other.to("cuda")
    assert all(a is b for a, b in zip(parameters, other.parameters(), strict=True))
    for network, x in ((model, images), (other, images.to("cuda"))):
        network(x).square().mean().backward()
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9).step()
    assert {t.device.type for t in (*other.parameters(), *other.buffers())} == {"cuda"}
    saved = io.BytesIO()
    torch.save(copy.deepcopy(other).state_dict(), saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True, map_location="cpu")
    torch.testing.assert_close(dict(loaded), dict(model.state_dict()), rtol=0, atol=0)


def test_each_device_draws_from_its_own_generator(two_cuda: SimulatedDevices) -> None:
    torch.manual_seed(1)  # of all devices
    here = torch.get_rng_state()
    first, second = (torch.rand(3, device=f"cuda:{i}").cpu() for i in range(2))
    torch.testing.assert_close(torch.get_rng_state(), here)
    torch.testing.assert_close(first, torch.rand(3))
    torch.testing.assert_close(first, second)
    assert not torch.equal(torch.rand(3, device="cuda:0").cpu(), first)


def test_a_tensor_too_large_for_the_device_raises_an_error(cuda: SimulatedDevices) -> None:
    cuda.largest = 4 * 100
    torch.ones(100).pin_memory().to("cuda", non_blocking=True)
    with pytest.raises(torch.OutOfMemoryError):
        torch.ones(101).to("cuda")
