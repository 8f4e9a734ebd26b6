"""The table that a study prints at its end."""

import dataclasses

import pandas as pd
import pytest

from nsopt.cli.console import console
from nsopt.cli.study import _print_summary
from nsopt.reports.results import Results
from tests.reports.conftest import results  # noqa: F401  (a fixture)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_table_drops_columns_but_never_cuts_words(
    results: Results,  # noqa: F811
    width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = [
        results.outcomes.assign(metric=metric, cost=1.5, method="neuralscale-params")
        for metric in ("macs", "latency")
    ]
    outcomes = pd.concat([results.outcomes, *others], ignore_index=True)
    monkeypatch.setattr(console, "width", width)
    with console.capture() as printed:
        _print_summary(dataclasses.replace(results, outcomes=outcomes))
    lines = printed.get().splitlines()
    table = [line.rstrip() for line in lines if " ± " in line and "mean" not in line]
    assert len(table) == 4 + 2 * 2
    assert max(map(len, table)) <= width
    assert sum("0.25x latency  neuralscale-params" in line for line in table) == 1
    assert not any("…" in line for line in lines)
    assert any("predicted" in line for line in lines) == (width == 100)
