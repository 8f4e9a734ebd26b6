"""Tables of laws and of studies."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from nsopt.cli.console import console
from nsopt.cli.search import _print_law
from nsopt.cli.study import _print_summary
from nsopt.reports.results import Results
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.record import Iteration, Trajectory
from tests.reports.conftest import results  # noqa: F401  (a fixture)


@pytest.mark.parametrize(("metric", "size"), [("params", "params"), ("macs", "MACs")])
def test_tables_name_metrics(capsys: pytest.CaptureFixture[str], metric: str, size: str) -> None:
    widths, tau = np.array([[8, 16], [7, 15], [6, 14]]), np.array([100.0, 80.0, 60.0])
    law = PowerLaw(np.ones(2), np.ones(2), np.ones(2))
    iteration = Iteration(Trajectory(widths, tau), law, (8, 16), 1.0, metric)
    _print_law(("conv1", "conv2"), iteration)
    printed = capsys.readouterr().out
    assert f"width = alpha * {size} ** beta" in printed
    assert "conv2" in printed


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
