"""Latencies of few passes, and models learned in a second from few and short measurements."""

from functools import partial

import pytest

from nsopt.latency import kernel_times, learn
from nsopt.latency.measure import measure_latencies
from nsopt.study import timing


def measure_briefly(patch: pytest.MonkeyPatch) -> None:
    """Time the networks of a study with few passes."""
    few = partial(measure_latencies, warmup=2, repeats=4, rounds=2)
    patch.setattr(timing, "measure_latencies", few)


def learn_briefly(patch: pytest.MonkeyPatch) -> None:
    """Measure fewer sizes and networks, each less often: all the same code, less exact numbers."""
    patch.setattr(kernel_times, "_POINTS", 3)
    patch.setattr(kernel_times, "_SECONDS", 0.002)
    patch.setattr(kernel_times, "_FEWEST", 2)
    patch.setattr(learn, "_RANDOM", 5)
    patch.setattr(learn, "_UNIFORM", 3)
    patch.setattr(learn, "_ROUNDS", 2)
    patch.setattr(learn, "_REPEATS", 2)
