"""Optuna's own conformance suites for samplers."""

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from tests.samplers.test_sampler import make_sampler

OPTIONS: dict[str, Callable[[], dict]] = {
    "default": lambda: {"budgets": (10**5, 10**6)},
    "without-budget": lambda: {"independent_sampler": RandomSampler(seed=0)},
    "spread": lambda: {
        "budgets": (10**6,),
        "independent_sampler": TPESampler(seed=0, multivariate=False),
        "spread": 0.2,
    },
}


@pytest.mark.parametrize("options", OPTIONS)
class TestConformance(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self, options: str) -> Callable[[], BaseSampler]:
        return lambda: make_sampler(seed=0, **OPTIONS[options]())


class TestSingleObjectiveConformance(SingleOnlySamplerTestCase):
    """If the independent sampler takes one objective only, two are refused."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: make_sampler(budgets=[10**6], independent_sampler=CmaEsSampler(seed=0))
