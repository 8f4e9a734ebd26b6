"""Few images, as in comparisons."""

from tests.study.conftest import digits, place

__all__ = ["digits", "place"]
