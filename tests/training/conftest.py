"""More digits than elsewhere, because networks must learn."""

import pytest

from nsopt.data.images import ImageData
from tests.conftest import first_digits


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """400 training and 100 test digits."""
    return first_digits(400, 100)
