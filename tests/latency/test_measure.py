"""How long threads waited for a processor."""

import math
from pathlib import Path

import pytest

from nsopt.latency import measure


@pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="not reported by the kernel")
def test_the_seconds_waited_never_decrease() -> None:
    before = measure.seconds_waited()
    assert 0 <= before <= measure.seconds_waited()


def test_the_seconds_waited_are_nan_where_the_kernel_does_not_report_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "task" / "1").mkdir(parents=True)
    monkeypatch.setattr(measure, "_PROCESS", tmp_path)
    assert math.isnan(measure.seconds_waited())
