"""Comparisons here are timed with few passes; those of `tests/e2e` with all."""

from collections.abc import Iterator
from functools import partial

import pytest

from nsopt.experiments import runner
from nsopt.latency.measure import measure_latencies


@pytest.fixture(scope="module", autouse=True)
def _latencies_of_few_passes() -> Iterator[None]:
    few = partial(measure_latencies, warmup=4, repeats=8, rounds=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "measure_latencies", few)
        yield
