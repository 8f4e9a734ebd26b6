"""Processes that share a device, each with its own files and its own queue of work."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event

import pytest
import torch

from nsopt.compute import device as device_module
from nsopt.compute import device_lock
from nsopt.compute.device import Compute
from nsopt.compute.device_lock import DeviceLock

_PAUSE = device_lock._PAUSE  # before `measure_briefly` shortens it


class Process:
    """A process that queues work on the device, which runs it later, as a GPU does."""

    def __init__(self, number: int, folder: Path) -> None:
        device = torch.device("cpu", number)
        self.compute = Compute(device, bf16=False, lock=DeviceLock(folder, "cuda-a"))
        self.queue = ThreadPoolExecutor(1)
        self.work: list[Future[None]] = []
        self.waits = 0
        self.stop = Event()

    @property
    def done(self) -> int:
        return sum(work.done() for work in self.work)

    def run(self, batches: int) -> None:
        with self.compute.computing():
            while len(self.work) < batches and not self.stop.is_set():
                self.compute.give_way()
                self.work.append(self.queue.submit(time.sleep, 0.002))
                time.sleep(0.001)

    def wait(self) -> None:
        self.waits += 1
        wait(self.work)


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Process]]:
    """Three processes that share a device."""
    made = [Process(number, tmp_path) for number in range(3)]
    monkeypatch.setattr(device_module, "wait_for", lambda device: made[device.index].wait())
    monkeypatch.setattr(device_lock, "_PAUSE", _PAUSE)
    with ExitStack() as end:
        for process in made:
            assert process.compute.lock is not None
            end.enter_context(closing(process.compute.lock))
            end.enter_context(process.queue)
        yield made


def test_no_other_process_computes_during_a_measurement(processes: list[Process]) -> None:
    *others, measuring = processes
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(other.run, 1000) for other in others]
        for _ in range(3):
            before = [len(other.work) for other in others]
            while any(len(o.work) < n + 5 for o, n in zip(others, before, strict=True)):
                time.sleep(0.001)
            with measuring.compute.exclusive():
                queued = [len(other.work) for other in others]
                assert [other.done for other in others] == queued
                time.sleep(0.01)
                assert [len(other.work) for other in others] == queued
        for other, future in zip(others, running, strict=True):
            other.stop.set()
            future.result()
            assert other.done == len(other.work)


@pytest.mark.parametrize("block", [1000, 2])
def test_processes_compute_as_long_between_two_measurements_as_the_first_took(
    processes: list[Process], block: int
) -> None:
    """Also if they pause after each block of two batches."""
    other, measuring, _ = processes

    def compute() -> None:
        while not other.stop.is_set():
            other.run(len(other.work) + block)
            time.sleep(0.002)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(compute)
        while not other.work:
            time.sleep(0.001)
        with measuring.compute.exclusive():
            before = len(other.work)
            time.sleep(0.3)
        with measuring.compute.exclusive():
            batches = len(other.work) - before
        other.stop.set()
        running.result()
        began = time.monotonic()
        with measuring.compute.exclusive():  # nobody computes, so that this begins at once
            assert time.monotonic() - began < 0.3
    assert batches > 10


def test_processes_do_not_wait_for_the_device_while_nobody_measures(
    processes: list[Process],
) -> None:
    process, other, _ = processes
    with other.compute.computing():
        process.run(20)
    assert process.waits == 1
    assert process.done == 20


def test_measurements_take_turns(processes: list[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not wait for a process that was stopped while it computed."""
    stopped, first, second = (process.compute for process in processes)
    ended = []
    with ThreadPoolExecutor(1) as pool, stopped.computing():
        for compute in first, second:
            monkeypatch.setattr(compute.lock, "_patience", 0.5)

        def measure() -> None:
            with second.exclusive(), second.exclusive():  # may be nested
                assert ended == [True]

        with first.exclusive():
            later = pool.submit(measure)
            time.sleep(0.05)
            ended.append(True)
        later.result()


def test_no_process_waits_longer_than_its_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert device_lock.LONGEST_WAIT == 30
    monkeypatch.setattr(device_lock, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(device_lock, "_LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(device_lock, "_IMPATIENT", 0.0)
    messages: list[str] = []
    with (
        closing(DeviceLock(tmp_path, "cpu")) as measuring,
        closing(DeviceLock(tmp_path, "cpu", messages.append)) as waiting,
        measuring.exclusive(),
    ):
        for way in (waiting.exclusive, waiting.shared):
            waits = []
            for _ in range(2):
                start = time.monotonic()
                with way():
                    waits.append(time.monotonic() - start)
            assert waits[0] >= 0.1
            assert waits[1] < 0.1  # once it has waited, it does not wait again
    assert messages == [
        f"another nsopt process (PID {os.getpid()}) measures and does not give way: milliseconds "
        "measured now are unreliable"
    ]


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
