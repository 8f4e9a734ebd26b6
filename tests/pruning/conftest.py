"""Few images, so that a search of dozens of batches is short."""

import pytest

from nsopt.data.images import ImageData
from tests.conftest import first_digits


@pytest.fixture(scope="session")
def few() -> ImageData:
    """100 training and 25 test digits: 6 batches of 16."""
    return first_digits(100, 25)
