"""Few images, so that a search of dozens of batches is short."""

import dataclasses

import pytest

from nsopt.data.images import ImageData
from tests.conftest import first_digits


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """160 training and 40 test digits."""
    return first_digits(160, 40)


@pytest.fixture(scope="session")
def few(digits: ImageData) -> ImageData:
    """100 training and 25 test digits: 6 batches of 16."""
    train, test = digits.train.take(range(100)), digits.test.take(range(25))
    return dataclasses.replace(digits, train=train, test=test)
