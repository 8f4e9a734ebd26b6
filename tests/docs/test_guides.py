"""The guides run, and the site builds."""

import doctest
import functools
import html
import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from PIL import Image

import nsopt
from nsopt import Architecture, get_architecture
from nsopt.torchvision_import import import_torchvision
from tests.conftest import first_digits
from tests.docs.test_pages import compress_briefly, narrow_architecture
from tests.forked import Forked
from tests.latency.brief import learn_briefly, measure_briefly, time_by_processor
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


NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
DIGITS, PER_CLASS = 'nsopt.load_data("digits")', 15  # fewer images for the tests
BRIEFLY = """
import sys
import pytest
sys.path.append({root!r})
from nsopt.compression import pipeline
from nsopt.compression.budgets import expand_curve
from tests.latency.brief import measure_briefly
patch = pytest.MonkeyPatch()
patch.setattr(pipeline, "expand_curve", lambda *asked, all=expand_curve: all(*asked)[:2])
measure_briefly(patch)
"""  # a curve has its first two budgets
BEGIN = """
import os
os.chdir({folder!r})
%reset -f
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[Any]]:
    """The cells of each notebook with their outputs.

    One kernel runs all notebooks, so that torch is imported once. Each notebook begins without
    names of the others, in a folder of its own.
    """
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    cells = {path: nbformat.read(path, 4).cells for path in NOTEBOOKS}
    new_cell = nbformat.v4.new_code_cell
    all_cells = [new_cell(BRIEFLY.format(root=str(ROOT)))]
    for path, own in cells.items():
        all_cells.append(new_cell(BEGIN.format(folder=str(tmp_path_factory.mktemp(path.stem)))))
        kept = [output for cell in own for output in cell.get("outputs", ())]
        assert not any("/site-packages/" in str(output) for output in kept)
        for cell in own:
            cell.source = cell.source.replace(DIGITS, f"{DIGITS}.subset(None, {PER_CLASS})")
        all_cells += own
    for number, cell in enumerate(all_cells):
        cell["id"] = f"cell-{number}"
    together = nbformat.v4.new_notebook(cells=all_cells)
    nbclient.NotebookClient(together, timeout=600).execute()
    return cells


@pytest.mark.filterwarnings("default")  # those of Jupyter
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, executed: dict[Path, list[Any]]) -> None:
    shown = [
        output["data"]
        for cell in executed[path]
        for output in cell.get("outputs", ())
        if output["output_type"] == "execute_result"
    ]
    assert shown
    assert all("<table" in data["text/html"] for data in shown)


_METHODS = (FunctionType, classmethod, property)


def test_the_examples_of_public_names_run(tmp_path: Path) -> None:
    done = Forked(run_examples, cwd=tmp_path).finish()
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def examples() -> Iterator[tuple[str, str]]:
    """Yield the public names with examples, and their code."""
    parser = doctest.DocTestParser()
    for name in nsopt.__all__:
        thing = getattr(nsopt, name)
        members = vars(thing).values() if isinstance(thing, type) else ()
        for one in (thing, *(each for each in members if isinstance(each, _METHODS))):
            code = "".join(each.source for each in parser.get_examples(one.__doc__ or ""))
            if code:
                yield name, code


def run_examples() -> None:
    """Run each example with the names that it assumes, on few digits and narrow networks."""
    patch, data = pytest.MonkeyPatch(), first_digits(100, 20)
    patch.setattr(nsopt, "load_data", lambda name, **options: data)
    patch.setattr(nsopt, "get_architecture", narrow_architecture)
    briefly = functools.partial(nsopt.measure_latency, warmup=2, repeats=4)
    patch.setattr(nsopt, "measure_latency", briefly)
    compress_briefly(patch)
    measure_briefly(patch)
    learn_briefly(patch)
    time_by_processor(patch)
    arch = narrow_architecture("vgg11", in_channels=1)
    settings = nsopt.TrainSettings(epochs=1, batch_size=32, lr=0.02)
    model = nsopt.train(arch, arch.base_widths, data, settings).model
    result = nsopt.compress(model, data, ["macs=50%"], arch=arch, epochs=1)
    patch.setattr(nsopt, "compress", lambda model, data, budgets, settings=None: result)
    nsopt.export(result["macs=50%"].network, "small.pt", "state_dict")
    Path("photos").mkdir()
    Image.new("RGB", (64, 64)).save("photos/black.png")
    import_torchvision("models")
    import_torchvision("datasets")
    assumed = {
        "nsopt": nsopt,
        "np": np,
        "optuna": optuna,
        "torch": torch,
        "torchvision": importlib.import_module("torchvision"),
        "arch": arch,
        "data": data,
        "law": nsopt.uniform_curve(arch.base_widths),
        "images": data.train.images.float() / 255,
        "model": model,
        "objective": lambda trial: float(sum(nsopt.suggest_widths(trial, arch))),
        "settings": settings,
    }
    for name, code in examples():
        print(name, flush=True)
        exec(compile(code, name, "exec"), dict(assumed))
