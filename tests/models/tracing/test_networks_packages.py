"""The table of networks, `benchmarks/packages.csv`, holds: run by `-m networks`."""

from importlib.util import find_spec

import pytest

from benchmarks.packages import make_row, read_table

ROWS = read_table()
PACKAGES = {"smp": "segmentation_models_pytorch"}  # names of modules, where they differ


@pytest.mark.networks
@pytest.mark.filterwarnings("ignore")  # of other libraries
@pytest.mark.parametrize("word", ROWS)
def test_a_row_of_the_table_holds(word: str) -> None:
    package = word.partition(":")[0]
    if find_spec(PACKAGES.get(package, package)) is None:
        pytest.skip(f"{package} is not installed")
    row, found = ROWS[word], make_row(word)
    for column in ("widths", "share", "exact", "trains", "exports"):
        assert str(found[column]) == row[column], column
