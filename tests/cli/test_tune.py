"""What `nsopt tune` prints at its end."""

from pathlib import Path
from typing import Any

import pytest

from nsopt.cli import tune
from nsopt.cli.options import OutputOptions, SgdOptions, SizeOptions, TaskOptions, TrainingOptions
from nsopt.cli.tune import TuneOptions
from nsopt.errors import NsoptError, StorageError
from nsopt.study import tuning as settings


def test_the_command_that_uses_the_result_names_network_and_images() -> None:
    assert tune.study_command([TaskOptions()], "sqlite:///a.db", "x-tune/eta") == (
        "nsopt study --storage=sqlite:///a.db --tuned=x-tune/eta"
    )
    task = TaskOptions(arch="resnet18", data="folder:my photos", preset="quick", no_mirror=True)
    groups = task, SizeOptions(ratios="0.5"), TrainingOptions(epochs=3)
    assert tune.study_command(groups, "sqlite:///a.db", "x-tune/eta") == (
        "nsopt study --arch=resnet18 '--data=folder:my photos' --no-mirror --preset=quick "
        "--ratios=0.5 --epochs=3 "
        "--storage=sqlite:///a.db --tuned=x-tune/eta"
    )


def test_a_storage_that_fails_before_the_table_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(study: Any) -> None:
        raise StorageError("storage study.db cannot be used: the server is gone")

    monkeypatch.setattr(settings, "run_tuning", lambda *arguments: None)
    monkeypatch.setattr("nsopt.reports.tuning.tuning_rows", fail)
    exact, output = SgdOptions(precision="fp32"), OutputOptions(out=tmp_path)
    options = TuneOptions(over="eta", sgd=exact, output=output)
    with pytest.raises(NsoptError, match=r"study\.db cannot be used: the server is gone"):
        tune.tune(options)
