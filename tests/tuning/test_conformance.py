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

from tests.tuning.test_sampler import sampler as neuralscale

INDEPENDENT: dict[str, Callable[[], BaseSampler | None]] = {
    "default": lambda: None,
    "random": lambda: RandomSampler(seed=0),
    "univariate": lambda: TPESampler(seed=0, multivariate=False),
}


@pytest.mark.parametrize("independent", INDEPENDENT)
@pytest.mark.parametrize("budgets", [(10**5, 10**6), ()], ids=["budgets", "no-budget"])
class TestConformance(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self, independent: str, budgets: tuple[int, ...]) -> Callable[[], BaseSampler]:
        make = INDEPENDENT[independent]
        return lambda: neuralscale(budgets=budgets, independent_sampler=make(), seed=0)


class TestSingleObjectiveConformance(SingleOnlySamplerTestCase):
    """Beside a sampler for one objective, two are refused as that sampler refuses them."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: neuralscale(budgets=[10**6], independent_sampler=CmaEsSampler(seed=0))
