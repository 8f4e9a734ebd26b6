"""The table of networks behind docs/packages.md holds: run by `-m networks`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.packages import format_summary, make_row, read_table

ROWS = read_table()
PACKAGES = {"smp": "segmentation_models_pytorch"}  # names of modules, where they differ
PAGE = Path(__file__).parents[2] / "docs" / "packages.md"


def test_the_page_sums_the_table_up() -> None:
    assert format_summary(ROWS) in PAGE.read_text()


def test_no_network_is_refused_that_torch_pruning_prunes() -> None:
    assert len(ROWS) >= 60
    for word, row in ROWS.items():
        assert row["share"], word
        assert {row["exact"], row["trains"]} == {"ok"}, word


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
