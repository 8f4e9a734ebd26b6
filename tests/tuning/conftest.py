"""Comparisons beside a tuning are of few images."""

from tests.study.conftest import digits, place

__all__ = ["digits", "place"]
