"""The notebooks of the documentation run, and their results are tables."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
