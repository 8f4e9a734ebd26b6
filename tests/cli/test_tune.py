"""What `nsopt tune` prints at its end."""

from pathlib import Path
from typing import Any

import pytest

from nsopt.cli import tune
from nsopt.cli.options import OutputOptions, SgdOptions
from nsopt.cli.tune import TuneOptions
from nsopt.errors import NsoptError, StorageError
from nsopt.study import tuning as settings


def test_a_storage_that_fails_before_the_answer_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(study: Any) -> None:
        raise StorageError("storage study.db cannot be used: the server is gone")

    monkeypatch.setattr(settings, "run_tuning", lambda *arguments: None)
    monkeypatch.setattr(settings, "describe_best", fail)
    exact, output = SgdOptions(precision="fp32"), OutputOptions(out=tmp_path)
    options = TuneOptions(over="eta", sgd=exact, output=output)
    with pytest.raises(NsoptError, match=r"study\.db cannot be used: the server is gone"):
        tune.tune(options)
