"""Read the numbers of a study in studies/, as its report left them, for figures of these pages."""

from pathlib import Path

import numpy as np
import pandas as pd

import nsopt
from nsopt.models.architecture import Architecture
from nsopt.reports.results import Results
from nsopt.scaling.record import Iteration, Trajectory
from nsopt.storage.schema import SEARCH, TaskDescription

STUDIES = Path(__file__).resolve().parents[2] / "studies"


def read_study(name: str) -> Results:
    """Return a study of a built-in network on CIFAR-10. name: of its folder."""
    folder = STUDIES / name
    network, data, *_ = name.split("-")
    arch = nsopt.get_architecture(network)
    task = TaskDescription(network, data, arch.layer_names, arch.base_widths, 10, 32, 3)
    outcomes = pd.read_csv(folder / "outcomes.csv")
    since = {"beyond_record": float("nan"), "binding": None, "cost_latency": float("nan")}
    older = {column: value for column, value in since.items() if column not in outcomes}
    return Results(
        name=name,
        task=task,
        settings={},
        provenance={},
        outcomes=outcomes.assign(widths=outcomes["widths"].map(_read_widths), **older),
        latencies=pd.read_csv(folder / "latencies.csv"),
        failures=pd.DataFrame(columns=["label", "reason"]),
        curves=pd.read_csv(folder / "epochs.csv"),
        searches={SEARCH: [_read_iteration(folder, arch)]},
    )


def _read_widths(key: str) -> tuple[int, ...]:
    return tuple(int(width) for width in key.split("-"))


def _read_iteration(folder: Path, arch: Architecture) -> Iteration:
    """Return the last iteration of the search by filters, with the law of its record."""
    rows = pd.read_csv(folder / "record.csv").query("search == @SEARCH")
    rows = rows[rows["iteration"] == rows["iteration"].max()]
    widths = np.vstack([arch.base_widths, rows[list(arch.layer_names)]]).astype(np.int64)
    tau = np.array([arch.cost("params")(arch.base_widths), *rows["tau"]], dtype=np.float64)
    trajectory = Trajectory(widths, tau)
    return Iteration(trajectory, trajectory.record().law(), arch.base_widths, seconds=0.0)
