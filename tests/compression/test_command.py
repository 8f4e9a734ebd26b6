"""`nsopt compress` on bad input: one line, exit code 2, nothing written."""

from pathlib import Path

import pytest
import torch

from nsopt.models.registry import get_architecture
from tests.conftest import call_nsopt
from tests.e2e.test_user_errors import check


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of MobileNetV2 for digits, as torch.save writes them."""
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
        (["--mean=0.5"], ["give mean and std, each with 1 numbers"]),
        (["--mean=a", "--std=1"], ["--mean 'a': write numbers"]),
        (["--mean=0.5", "--std=0"], ["std must be above 0"]),
        (["--warmup-epochs=20"], ["warmup_epochs must be below epochs"]),
        (["--out=/proc/nowhere"], ["cannot write to /proc/nowhere", "--out"]),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    weights: Path, tmp_path: Path, options: list[str], parts: list[str]
) -> None:
    usual = {"--weights": str(weights), "--budgets": "macs=50%", "--arch": "mobilenetv2"}
    usual |= {"--out": str(tmp_path / "out"), "--device": "cpu"}
    usual |= dict(option.split("=", 1) for option in options)
    check(call_nsopt("compress", *(f"{name}={value}" for name, value in usual.items())), *parts)
    assert not (tmp_path / "out").exists()
