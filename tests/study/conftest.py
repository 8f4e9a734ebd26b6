"""A comparison and its place, of few images and timed with few passes.

Those of `tests/e2e` are timed with all.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nsopt.data.images import ImageData
from nsopt.models.architecture import TableArchitecture
from nsopt.study.comparison import Comparison
from nsopt.study.workspace import Workspace
from tests.conftest import first_digits
from tests.latency.brief import measure_briefly
from tests.study.test_comparison import comparison_in, workspace_in


@pytest.fixture(scope="module", autouse=True)
def _latencies_of_few_passes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        measure_briefly(patch)
        yield


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """160 training and 40 test digits."""
    return first_digits(160, 40)


@pytest.fixture
def comparison(narrow: TableArchitecture, digits: ImageData) -> Comparison:
    return comparison_in(narrow, digits)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return workspace_in(tmp_path)
