"""A comparison and its place, timed with few passes; those of `tests/e2e` are timed with all."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nsopt.data.images import ImageData
from nsopt.latency.measure import measure_latencies
from nsopt.models.architecture import TableArchitecture
from nsopt.study import timing
from nsopt.study.comparison import Comparison
from nsopt.study.workspace import Workspace
from tests.study.test_comparison import comparison_in, workspace_in


@pytest.fixture(scope="module", autouse=True)
def _latencies_of_few_passes() -> Iterator[None]:
    few = partial(measure_latencies, warmup=4, repeats=8, rounds=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "measure_latencies", few)
        yield


@pytest.fixture
def comparison(narrow: TableArchitecture, digits: ImageData) -> Comparison:
    return comparison_in(narrow, digits)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return workspace_in(tmp_path)
