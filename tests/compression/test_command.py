"""`nsopt compress` on bad input: one line, exit code 2, nothing written."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from nsopt.cli.compress import _export
from nsopt.compression.budgets import Budget
from nsopt.compression.compress import _find_best
from nsopt.compression.result import CompressedClassifier
from nsopt.deployment.kept import load_network
from nsopt.errors import NsoptError
from nsopt.models.registry import get_architecture
from nsopt.reports.results import Results
from nsopt.scaling.metric import PARAMS
from nsopt.study.task import Task
from nsopt.study.workspace import Workspace
from tests.conftest import call_nsopt
from tests.deployment.test_artifacts import make_network
from tests.e2e.test_user_errors import assert_fails


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights of MobileNetV2 for digits, written by torch.save."""
    file = tmp_path_factory.mktemp("weights") / "trained.pt"
    arch = get_architecture("mobilenetv2", in_channels=1)
    torch.save(arch.build(arch.base_widths).state_dict(), file)
    return file


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--weights=missing.pt"], ["cannot read weights from missing.pt"]),
        (["--arch=vgg11"], ["the weights of another network than vgg11", "is missing there"]),
        (["--budgets=half"], ["'half' is not a budget", "write macs=50%"]),
        (["--budgets=macs=50G"], ["already costs only", "give a smaller budget"]),
        (["--budgets="], ["give at least one budget"]),
        (["--multiple-of=x"], ["--multiple-of 'x' is not a width: write 8"]),
        (["--min-width=99"], ["min_width must be at most", "99 is above"]),
        (["--mean=0.5"], ["give mean and std, each with 1 numbers"]),
        (["--mean=a", "--std=1"], ["--mean 'a': write numbers"]),
        (["--mean=0.5", "--std=0"], ["std must be above 0"]),
        (["--warmup-epochs=20"], ["warmup_epochs must be below epochs"]),
        (["--out=/proc/nowhere"], ["cannot write to /proc/nowhere", "--out"]),
    ],
)
def test_invalid_options_fail_before_anything_runs(
    weights: Path, tmp_path: Path, options: list[str], parts: list[str]
) -> None:
    usual = {"--weights": str(weights), "--budgets": "macs=50%", "--arch": "mobilenetv2"}
    usual |= {"--out": str(tmp_path / "out"), "--device": "cpu"}
    usual |= dict(option.split("=", 1) for option in options)
    assert_fails(
        call_nsopt("compress", *(f"{name}={value}" for name, value in usual.items())), *parts
    )
    assert not (tmp_path / "out").exists()


def test_the_export_of_compress_replaces_a_symbolic_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsopt.cli.extras.has_extra", lambda name: False)
    victim, folder = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    folder.mkdir()
    (folder / "macs-50-percent.pt").symlink_to(victim)
    compressed = SimpleNamespace(budget="macs=50%", network=make_network(50.0))
    assert _export(cast(CompressedClassifier, compressed), folder).startswith("macs-50-percent.pt ")
    assert victim.read_text() == "precious"
    (file,) = folder.iterdir()
    assert not file.is_symlink()
    assert load_network(file).arch == "vgg11"


def test_the_error_of_failed_trainings_hides_the_password(tmp_path: Path) -> None:
    task = SimpleNamespace(stored_studies=lambda workspace: {})
    workspace = Workspace("postgresql://me:sesame@h/d", tmp_path)
    budget = Budget("macs=50%", PARAMS, 1)
    with pytest.raises(NsoptError, match=r"succeeded: see postgresql://me:\*\*\*@h/d$"):
        _find_best(cast(Task, task), workspace, budget, (), cast(Results, None))
