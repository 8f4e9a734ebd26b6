"""Measurements of few passes, and latency models of few networks."""

import time
from types import SimpleNamespace

import pytest

from nsopt.latency import measure, model, multiples, runtime
from nsopt.training import precision


def measure_briefly(patch: pytest.MonkeyPatch) -> None:
    """Time networks in few rounds, and a training with one step."""
    for name in ("_WARMUP", "_FEWEST", "_USUAL", "_MOST", "_PASSES"):
        patch.setattr(measure, name, 2)
    patch.setattr(multiples, "_ROUNDS", 2)
    patch.setattr(precision, "_TIMED", 1)
    patch.setattr(precision, "_TURNS", 1)


def learn_briefly(patch: pytest.MonkeyPatch) -> None:
    """Measure fewer networks, each less often: the same code, less exact numbers."""
    patch.setattr(model, "_RANDOM", 4)
    patch.setattr(model, "_ROUNDS", 2)


def time_by_processor(patch: pytest.MonkeyPatch) -> None:
    """Measure this process's seconds of the processor, which other processes disturb less."""
    patch.setattr(runtime, "time", SimpleNamespace(perf_counter=time.process_time))
