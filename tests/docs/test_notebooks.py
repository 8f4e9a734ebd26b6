"""The notebooks of the documentation run, and their results are tables."""

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))
DIGITS, PER_CLASS = 'nsopt.load_data("digits")', 40  # fewer images for the tests


@pytest.mark.filterwarnings("default")  # those of Jupyter
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, 4)
    kept = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not any("/site-packages/" in str(output) for output in kept)
    for cell in notebook.cells:
        cell.source = cell.source.replace(DIGITS, f"{DIGITS}.subset(None, {PER_CLASS})")
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
    shown = [
        output["data"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "execute_result"
    ]
    assert shown
    assert all("<table" in data["text/html"] for data in shown)
