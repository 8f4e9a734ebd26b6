"""Networks are timed with few passes."""

from tests.study.conftest import _latencies_of_few_passes

__all__ = ["_latencies_of_few_passes"]
