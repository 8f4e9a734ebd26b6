"""Measurements of few passes, and latency models learned in a second from few of them."""

import time
from types import SimpleNamespace

import pytest

from nsopt.compute import device_lock
from nsopt.latency import calls, kernel_model, measure, multiples, runtime, timer
from nsopt.session import timing
from nsopt.training import precision


def measure_briefly(patch: pytest.MonkeyPatch) -> None:
    """Time the networks of a study with few passes, and a training with one step, also on a busy
    machine. Wait only briefly for other processes between measurements."""
    for name, few in (("_WARMUP", 1), ("_REPEATS", 2), ("_ROUNDS", 2)):
        patch.setattr(timing, name, few)
        patch.setattr(multiples, name, few)
    for name in ("_ALONE", "_BESIDE"):
        patch.setattr(timer, name, (2, 4, 2))
    patch.setattr(measure, "_MOST_ROUNDS", 2)
    patch.setattr(device_lock, "_PAUSE", 0.02)
    patch.setattr(precision, "_TIMED", 1)
    patch.setattr(precision, "_TURNS", 1)


def learn_briefly(patch: pytest.MonkeyPatch) -> None:
    """Measure fewer sizes and networks, each less often: the same code, less exact numbers."""
    patch.setattr(calls, "_POINTS", 3)
    patch.setattr(calls, "_SECONDS", 0.002)
    patch.setattr(calls, "_FEWEST", 2)
    patch.setattr(kernel_model, "_RANDOM", 5)
    patch.setattr(kernel_model, "_UNIFORM", 3)
    patch.setattr(kernel_model, "_ROUNDS", 2)
    patch.setattr(kernel_model, "_REPEATS", 2)


def time_by_processor(patch: pytest.MonkeyPatch) -> None:
    """Measure this process's seconds of the processor, which other processes disturb less."""
    for module in (runtime, calls):
        patch.setattr(module, "time", SimpleNamespace(perf_counter=time.process_time))
