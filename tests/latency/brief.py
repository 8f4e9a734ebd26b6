"""Latency models that are learned in a second, from few and short measurements."""

import pytest

from nsopt.latency import kernel_times, learn


def learn_briefly(patch: pytest.MonkeyPatch) -> None:
    """Measure fewer sizes and networks, each less often: all the same code, less exact numbers."""
    patch.setattr(kernel_times, "_POINTS", 3)
    patch.setattr(kernel_times, "_SECONDS", 0.002)
    patch.setattr(kernel_times, "_FEWEST", 2)
    patch.setattr(learn, "_RANDOM", 5)
    patch.setattr(learn, "_UNIFORM", 3)
    patch.setattr(learn, "_ROUNDS", 2)
    patch.setattr(learn, "_REPEATS", 2)
