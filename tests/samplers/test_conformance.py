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

from tests.samplers.test_sampler import sampler as neuralscale

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
        return lambda: neuralscale(seed=0, **OPTIONS[options]())


class TestSingleObjectiveConformance(SingleOnlySamplerTestCase):
    """Beside a sampler for one objective, two are refused as that sampler refuses them."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: neuralscale(budgets=[10**6], independent_sampler=CmaEsSampler(seed=0))
