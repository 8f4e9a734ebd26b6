"""Measurements of few passes, and latency models learned in a second from few of them."""

import time
from types import SimpleNamespace

import pytest

from nsopt.latency import calls, kernel_model, measure, multiples, runtime
from nsopt.training import precision


def measure_briefly(patch: pytest.MonkeyPatch) -> None:
    """Time networks in few rounds, and a training with one step."""
    for name in ("_WARMUP", "_FEWEST", "_USUAL", "_MOST", "_PASSES"):
        patch.setattr(measure, name, 2)
    patch.setattr(multiples, "_ROUNDS", 2)
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


def time_by_processor(patch: pytest.MonkeyPatch) -> None:
    """Measure this process's seconds of the processor, which other processes disturb less."""
    for module in (runtime, calls):
        patch.setattr(module, "time", SimpleNamespace(perf_counter=time.process_time))
