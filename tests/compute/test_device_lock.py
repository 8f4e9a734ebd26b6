"""A device that several processes share."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import torch

from nsopt.compute.device_lock import DeviceLock


def test_who_measures_is_alone(tmp_path: Path) -> None:
    log: list[str] = []

    def compute(machine: DeviceLock) -> None:
        for _ in range(40):
            with machine.shared():
                log.append("in")
                time.sleep(0.002)
                log.append("out")

    machines = [DeviceLock(tmp_path, "cpu") for _ in range(3)]
    with ThreadPoolExecutor(2) as pool:
        for machine in machines[:2]:
            pool.submit(compute, machine)
        for _ in range(3):
            time.sleep(0.01)
            with machines[2].exclusive():
                before = len(log)
                assert log.count("in") == log.count("out")
                time.sleep(0.02)
                assert len(log) == before
    for machine in machines:
        machine.close()
    assert len(log) == 160


def test_a_measurement_uses_all_threads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with closing(DeviceLock(tmp_path, "cpu")) as machine:
            torch.set_num_threads(1)
            with machine.exclusive():
                assert torch.get_num_threads() == 2
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
