"""Latencies of few passes, and models learned in a second from few and short measurements."""

import time
from types import SimpleNamespace

import pytest

from nsopt.latency import kernel_times, learn, measured_budget, runtime
from nsopt.study import timing


def measure_briefly(patch: pytest.MonkeyPatch) -> None:
    """Time the networks of a study with few passes."""
    for name, few in {"_WARMUP": 2, "_REPEATS": 4, "_ROUNDS": 2}.items():
        patch.setattr(timing, name, few)
        patch.setattr(measured_budget, name, 2 * few)


def learn_briefly(patch: pytest.MonkeyPatch) -> None:
    """Measure fewer sizes and networks, each less often: all the same code, less exact numbers."""
    patch.setattr(kernel_times, "_POINTS", 3)
    patch.setattr(kernel_times, "_SECONDS", 0.002)
    patch.setattr(kernel_times, "_FEWEST", 2)
    patch.setattr(learn, "_RANDOM", 5)
    patch.setattr(learn, "_UNIFORM", 3)
    patch.setattr(learn, "_ROUNDS", 2)
    patch.setattr(learn, "_REPEATS", 2)


def time_by_processor(patch: pytest.MonkeyPatch) -> None:
    """Time by the processor's seconds of this process: others disturb few passes less."""
    for module in (runtime, kernel_times):
        patch.setattr(module, "time", SimpleNamespace(perf_counter=time.process_time))
