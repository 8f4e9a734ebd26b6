"""Devices that several processes share."""

from types import SimpleNamespace

import pytest
import torch

from nsopt.compute.device import hardware_name, nth_device, resolve_compute
from nsopt.errors import NsoptError


def test_all_names_of_a_device_give_the_same_hardware_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name identifies a lock, also for processes that see other devices."""
    uuids = {None: "a", 0: "a", 1: "b"}
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda device: SimpleNamespace(uuid=uuids[device.index]),
    )
    names = [hardware_name(torch.device(name)) for name in ("cuda", "cuda:0", "cuda:1")]
    assert names == ["cuda-a", "cuda-a", "cuda-b"]
    assert hardware_name(torch.device("cpu")) == hardware_name(torch.device("cpu", 0)) == "cpu"


def test_a_device_without_numbers_is_refused() -> None:
    with pytest.raises(NsoptError, match="device 'meta' is not available"):
        resolve_compute("meta", "fp32")


def test_workers_take_cuda_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    devices = [str(nth_device(torch.device("cuda", 1), number)) for number in range(1, 4)]
    assert devices == ["cuda:2", "cuda:0", "cuda:1"]
    assert nth_device(torch.device("cpu"), 2) == torch.device("cpu")
