"""Widths for a budget in milliseconds, against synthetic clocks."""

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nsopt.errors import NoWidthsError
from nsopt.latency.bisection import MOST_TIMED, Tried, Widths, find_widest
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.solve import solve_widths

BASE = np.array([24, 40, 64])
CAP = 3 * BASE


def products(widths: object) -> np.ndarray:
    """A latency model without the constant, the blocks and the speed of the machine."""
    w = np.asarray(widths, dtype=np.float64)
    return w[..., 0] * w[..., 1] + w[..., 1] * w[..., 2]


def propose_along(law: PowerLaw, speed: float, budget: float) -> Tried:
    fit = solve_widths(law, lambda w: products(w) / speed, budget, max_width=CAP)
    return Tried(tuple(fit.widths.tolist()), float(fit.cost))


class Clock:
    """Milliseconds of networks: a constant, whole blocks of channels, and noise that only adds."""

    def __init__(self, constant: float, block: int, noise: float, seed: int) -> None:
        self.constant, self.block, self.noise = constant, block, noise
        self.random = np.random.default_rng(seed)
        self.log: list[tuple[Widths, float]] = []

    def exactly(self, widths: Widths) -> float:
        padded = np.ceil(np.array(widths) / self.block) * self.block
        return self.constant + float(products(padded)) / 1000

    def __call__(self, widths: Widths) -> float:
        taken = self.exactly(widths) * (1 + self.noise * self.random.random())
        self.log.append((widths, taken))
        return taken


def largest_within(law: PowerLaw, speed: float, clock: Clock, budget: float) -> float | None:
    """Return the prediction for the largest of 1000 networks that takes at most `budget`."""
    sizes = np.geomspace(1.001 * products(np.ones(3)), products(CAP), 1000) / speed
    fits = solve_widths(law, lambda w: products(w) / speed, sizes, max_width=CAP)
    taken = clock.constant + products(fits.widths) / 1000
    return float(np.asarray(fits.cost)[taken <= budget][-1]) if (taken <= budget).any() else None


laws = st.lists(st.floats(0.3, 1.7), min_size=3, max_size=3).map(
    lambda slopes: PowerLaw(BASE.astype(float), np.array(slopes), np.ones(3))
)
clocks = st.builds(
    Clock,
    constant=st.floats(0, 3),
    block=st.sampled_from([1, 4, 16]),
    noise=st.sampled_from([0.0, 0.02, 0.2]),
    seed=st.integers(0, 100),
)


@settings(max_examples=40)
@given(laws, clocks, st.floats(0.5, 20), st.floats(100, 10_000))
def test_bisection_never_returns_a_network_above_the_budget(
    law: PowerLaw, clock: Clock, budget: float, speed: float
) -> None:
    propose = partial(propose_along, law, speed)
    try:
        found = find_widest(propose, clock, budget)
    except NoWidthsError:
        assert all(taken > budget for _, taken in clock.log)
        return
    finally:
        assert len(clock.log) <= MOST_TIMED
    assert (found.widths, found.measured) in clock.log
    assert found.measured <= budget
    assert propose(found.predicted).widths == found.widths


@settings(max_examples=40)
@given(laws, st.floats(0, 3), st.floats(0.5, 20), st.floats(100, 10_000))
def test_bisection_finds_nearly_the_largest_network_that_fits(
    law: PowerLaw, constant: float, budget: float, speed: float
) -> None:
    """Where the constant leaves a fifth of the budget: eight do not find the way to less."""
    assume(constant < 0.8 * budget)
    clock = Clock(constant, 1, 0.0, 0)
    propose = partial(propose_along, law, speed)
    largest = largest_within(law, speed, clock, budget)
    if largest is None:
        with pytest.raises(NoWidthsError, match="no widths fit a budget of"):
            find_widest(propose, clock, budget)
        return
    found = find_widest(propose, clock, budget)
    assert found.predicted >= 0.96 * largest or found.measured >= 0.96 * budget


def test_a_good_prediction_takes_one_measurement() -> None:
    law = PowerLaw(BASE.astype(float), np.ones(3), np.ones(3))
    propose = partial(propose_along, law, 1000.0)
    clock = Clock(1.0, 1, 0.0, 0)
    found = find_widest(propose, clock, 12.0)
    clock.log.clear()
    assert find_widest(propose, clock, 12.0, aim=found.predicted).widths == found.widths
    assert len(clock.log) == 1
