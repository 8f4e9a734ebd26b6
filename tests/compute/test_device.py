"""Devices and their numbers."""

import pytest
import torch

from nsopt.compute.device import nth_device, resolve_compute
from nsopt.errors import NsoptError


def test_a_device_without_numbers_is_refused() -> None:
    with pytest.raises(NsoptError, match="device 'meta' is not available"):
        resolve_compute("meta", "fp32")


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
