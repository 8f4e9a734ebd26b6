from collections.abc import Iterator

import pytest

from tests.tracing.checks import OtherProcess


@pytest.fixture(scope="module")
def other_process() -> Iterator[OtherProcess]:
    process = OtherProcess()
    yield process
    process.end()
