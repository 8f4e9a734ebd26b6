"""How long threads waited for a processor."""

import math
from pathlib import Path

import pytest

from nsopt.compute import waiting


@pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="not reported by the kernel")
def test_the_seconds_waited_never_decrease() -> None:
    before = waiting.seconds_waited()
    assert 0 <= before <= waiting.seconds_waited()


def test_the_seconds_waited_are_nan_where_the_kernel_does_not_report_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "task" / "1").mkdir(parents=True)
    monkeypatch.setattr(waiting, "_PROCESS", tmp_path)
    assert math.isnan(waiting.seconds_waited())
