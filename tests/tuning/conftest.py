"""Comparisons beside a tuning are timed with few passes."""

from tests.study.conftest import _latencies_of_few_passes, place

__all__ = ["_latencies_of_few_passes", "place"]
