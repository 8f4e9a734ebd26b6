"""The simulated device keeps the rules of a real one."""

import numpy as np
import pytest
import torch

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
