"""Comparisons beside a tuning are of few images, and timed with few passes."""

from tests.study.conftest import _latencies_of_few_passes, digits, place

__all__ = ["_latencies_of_few_passes", "digits", "place"]
