"""The table of a law that `nsopt search` prints."""

import numpy as np
import pytest

from nsopt.cli.search import _print_law
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.record import Iteration, Trajectory


@pytest.mark.parametrize(("metric", "size"), [("params", "params"), ("macs", "MACs")])
def test_tables_name_metrics(capsys: pytest.CaptureFixture[str], metric: str, size: str) -> None:
    widths, tau = np.array([[8, 16], [7, 15], [6, 14]]), np.array([100.0, 80.0, 60.0])
    law = PowerLaw(np.ones(2), np.ones(2), np.ones(2))
    iteration = Iteration(Trajectory(widths, tau), law, (8, 16), 1.0, metric)
    _print_law(("conv1", "conv2"), iteration)
    printed = capsys.readouterr().out
    assert f"width = alpha * {size} ** beta" in printed
    assert "conv2" in printed
