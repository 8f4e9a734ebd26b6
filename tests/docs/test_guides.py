"""The guides run, and the site builds."""

import html
import os
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import nsopt
from nsopt import Architecture, get_architecture
from nsopt.torchvision_import import import_torchvision
from tests.conftest import first_digits
from tests.forked import Forked
from tests.latency.brief import learn_briefly, time_by_processor
from tests.rescaled import with_base_widths

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("guide", "parts"),
    [
        ("beside_optuna", ["'budget': 300000, 'metric': 'params', 'cost': 2"]),
        ("five_milliseconds", ["law: ", "uniform: ", "ms predicted", "test accuracy"]),
    ],
)
def test_a_guide_runs(guide: str, parts: list[str], tmp_path: Path) -> None:
    done = Forked(run_guide, ROOT / "docs" / "guides" / f"{guide}.py", cwd=tmp_path).finish()
    assert done.returncode == 0, done.stderr
    for part in parts:
        assert part in done.stdout


def run_guide(file: Path) -> None:
    """Run `python file` on few digits and small networks, with few times of the processor."""
    few = first_digits(100, 20)
    patch = pytest.MonkeyPatch()
    patch.setattr(nsopt, "load_data", lambda name: few)
    patch.setattr(nsopt, "get_architecture", small_architecture)
    patch.setattr(nsopt, "measure_latency", partial(nsopt.measure_latency, warmup=2, repeats=4))
    learn_briefly(patch)
    time_by_processor(patch)
    runpy.run_path(str(file), run_name="__main__")


def small_architecture(name: str, num_classes: int = 10, in_channels: int = 3) -> Architecture:
    """VGG11 a quarter as wide, or torchvision's ResNet18 half as wide and deep."""
    if name == "vgg11":
        arch = get_architecture(name, num_classes=num_classes, in_channels=in_channels)
        return with_base_widths(arch, tuple(w // 4 for w in arch.base_widths))
    assert name == "torchvision:resnet18"
    resnet = import_torchvision("models").resnet
    example = torch.randn(2, in_channels, 32, 32)
    whole = nsopt.trace(resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes), example)
    return nsopt.trace(whole.build([width // 2 for width in whole.base_widths]), example)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "mkdocs"
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [program, "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "reference" / "optuna.html").read_text()
    assert "spread" in page
    assert "Weights may" not in page  # of a private module
    assert "nsopt study [OPTIONS]" in (tmp_path / "site/reference/commands.html").read_text()
    for guide in (ROOT / "docs" / "guides").glob("*.py"):
        page = (tmp_path / "site" / "guides" / f"{guide.stem}.html").read_text()
        shown = html.unescape(re.sub(r"<[^>]+>", "", page))
        assert guide.read_text() in shown
