"""A comparison on few images, and its workspace."""

from pathlib import Path

import pytest

from nsopt.data.images import ImageData
from nsopt.models.architecture import Architecture
from nsopt.session.workspace import Workspace
from nsopt.study.plan import Comparison
from tests.conftest import first_digits
from tests.study.test_comparison import make_comparison, make_workspace


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """100 training and 20 test digits."""
    return first_digits(100, 20)


@pytest.fixture
def comparison(narrow: Architecture, digits: ImageData) -> Comparison:
    return make_comparison(narrow, digits)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)
