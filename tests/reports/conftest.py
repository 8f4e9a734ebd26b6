"""A comparison whose numbers are easy to check by hand."""

import numpy as np
import pandas as pd
import pytest

from nsopt.reports.results import LATENCY_COLUMNS, Results
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.record import Iteration, Trajectory
from nsopt.storage.schema import TaskDescription
from nsopt.storage.trials import OUTCOME_COLUMNS


@pytest.fixture
def results() -> Results:
    """Two methods at two budgets with two seeds."""
    rows = []
    for method, latency, gain in (("uniform", 1.0, 0.0), ("neuralscale", 2.0, 3.0)):
        for budget in (1000, 4000):
            for seed in (0, 1):
                accuracy = 50 + budget / 1000 + gain + seed + (2 * seed - 1) * gain / 1536
                row = dict.fromkeys(OUTCOME_COLUMNS, 0.0) | {
                    "method": method,
                    "metric": "params",
                    "ratio": budget / 4000,
                    "budget": budget,
                    "seed": seed,
                    "params": budget - 10,
                    "macs": 7 * budget,
                    "latency_ms": latency * budget / 1000,
                    "score": accuracy,
                    "test_score": accuracy - 1,
                    "test_score_best_epoch": accuracy,
                    "feasible": True,
                    "binding": None,
                    "cost_latency": None,
                    "widths": (budget // 500, budget // 250 + int(gain)),
                }
                rows.append(row)
    widths = np.array([[10 * k, 4 * k] for k in range(9, 1, -1)])
    tau = 10 * widths.sum(axis=1)
    law = PowerLaw.fit(widths[1:], tau[1:])
    return Results(
        name="net-<b>data</b>-smoke",
        task=TaskDescription("net", "<b>data</b>", ("first", "second"), (90, 36), 2, 32, 3),
        settings={"preset": "quick", "training": {"epochs": 3}},
        provenance={"uniform": {"device": "<script>alert(1)</script>"}},
        outcomes=pd.DataFrame(rows),
        latencies=pd.DataFrame(columns=LATENCY_COLUMNS),
        failures=pd.DataFrame([{"label": "uniform <i>", "reason": "the loss became nan"}]),
        curves=pd.DataFrame({"method": ["uniform"], "epoch": [1], "train_loss": [0.5]}),
        searches={"search": [Iteration(Trajectory(widths, tau), law, (80, 30), 12.0)]},
    )
