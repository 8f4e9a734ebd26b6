"""Widths for a budget in milliseconds, against synthetic clocks."""

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nsopt.errors import NoWidthsError
from nsopt.latency.bisection import MOST_TIMED, Tried, Widths, bisect_widths
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

    def measured(self, widths: Widths) -> list[float]:
        return [taken for timed, taken in self.log if timed == widths]


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
        found = bisect_widths(propose, clock, budget)
    except NoWidthsError:
        # One that fitted was above the budget when its time was confirmed.
        assert all(max(clock.measured(widths)) > budget for widths, _ in clock.log)
        return
    finally:
        assert len(clock.log) <= MOST_TIMED
    own = clock.measured(found.widths)
    assert list(found.measured) == own
    assert max(own) <= budget
    assert propose(found.predicted).widths == found.widths


@settings(max_examples=40)
@given(laws, st.floats(0, 3), st.floats(0.5, 20), st.floats(100, 10_000))
def test_bisection_finds_nearly_the_largest_network_that_fits(
    law: PowerLaw, constant: float, budget: float, speed: float
) -> None:
    """Where the constant leaves a tenth of the budget: 12 networks do not find the way to less."""
    assume(constant < 0.9 * budget)
    clock = Clock(constant, 1, 0.0, 0)
    propose = partial(propose_along, law, speed)
    largest = largest_within(law, speed, clock, budget)
    if largest is None:
        with pytest.raises(NoWidthsError, match="no widths fit a budget of"):
            bisect_widths(propose, clock, budget)
        return
    found = bisect_widths(propose, clock, budget)
    assert found.predicted >= 0.96 * largest
    assert len(found.measured) == 2


def test_widths_along_one_of_many_laws_take_few_measurements() -> None:
    """They begin where an earlier measurement says, and end as soon as the budget is filled."""
    law = PowerLaw(BASE.astype(float), np.ones(3), np.ones(3))
    propose = partial(propose_along, law, 1000.0)
    for constant, budget in ((0.0, 3.0), (1.0, 3.0), (1.0, 12.0)):
        clock = Clock(constant, 1, 0.0, 0)
        careful = bisect_widths(propose, Clock(constant, 1, 0.0, 0), budget)
        found = bisect_widths(propose, clock, budget, is_careful=False)
        assert len(clock.log) <= 4
        assert 0.85 * max(careful.measured) <= max(found.measured) <= budget
        clock.log.clear()
        again = bisect_widths(propose, clock, budget, aim=found.predicted, is_careful=False)
        assert again.widths == found.widths
        if max(found.measured) >= 0.97 * budget:
            assert len(clock.log) == 1


def has_timed(clock: Clock, measurements: int) -> bool:
    return len(clock.log) >= measurements


def test_without_time_the_best_known_widths_count() -> None:
    law = PowerLaw(BASE.astype(float), np.ones(3), np.ones(3))
    propose = partial(propose_along, law, 1000.0)
    clock, budget = Clock(1.0, 1, 0.0, 0), 4.0
    for measurements in range(5):
        clock.log.clear()
        is_over = partial(has_timed, clock, measurements)
        found = bisect_widths(propose, clock, budget, is_over=is_over)
        assert len(clock.log) == measurements
        fitting = [widths for widths, taken in clock.log if taken <= budget]
        if fitting:
            assert found.widths == fitting[-1]
        else:
            assert found.measured == ()
            assert clock.exactly(found.widths) <= budget or measurements == 0
