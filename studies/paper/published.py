"""The published results of NeuralScale (Lee & Lee, CVPR 2020), to compare with measurements.

`published_accuracy.csv`: statistics over seeds by network, data set, method and width ratio (as in
Tables 1 to 6; for magnitude pruning only what is printed there). `budget_params` is the number of
parameters of the uniform network at that ratio.
`published_widths.csv`: the widths that the law of each iteration of descent proposes at the
original network's parameters. `published_tables.csv`: the methods that a table compares.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

BEST_EPOCH = "best_test_mean"
_HERE = Path(__file__).parent


class PublishedLine(NamedTuple):
    """One published method: parameters and mean test accuracy per ratio."""

    method: str
    label: str
    params: list[float]
    accuracy: list[float]
    text: list[str]


class PublishedTable(NamedTuple):
    """A table of the paper with its accuracy figures, for one network and data set.

    Attributes:
        methods: their names in the table, by their names in the published numbers.
    """

    table: str
    by_size: str
    by_latency: str
    methods: dict[str, str]


def published_lines(arch: str, data: str, names: Sequence[str]) -> list[PublishedLine]:
    """Return the best test epochs of published methods, for a network on a data set."""
    by_method = dict(iter(published_accuracies(arch, data).groupby("method")))
    return [
        PublishedLine(
            method=name,
            label=f"published {name}",
            params=rows["budget_params"].astype(float).tolist(),
            accuracy=rows[BEST_EPOCH].tolist(),
            text=[_describe_row(name, row) for row in rows.to_dict("records")],
        )
        for name in names
        if name in by_method
        for rows in [by_method[name]]
    ]


def published_data(arch: str, data: str) -> str | None:
    """Return the published data set for `arch` whose name is part of `data`, such as cifar10 for
    `folder-cifar10-jpeg`; None if there is none."""
    table = _read("published_accuracy.csv")
    names = table[table["arch"] == arch]["data"].unique()
    return max((name for name in names if name in data), key=len, default=None)


def published_tables(arch: str, data: str) -> list[PublishedTable]:
    """Return the paper's tables for a network and a data set."""
    table = _read("published_tables.csv")
    own = table[(table["arch"] == arch) & (table["data"] == data)]
    return [
        PublishedTable(
            table, by_size, by_latency, dict(zip(rows["method"], rows["label"], strict=True))
        )
        for (table, by_size, by_latency), rows in own.groupby(["table", "by_size", "by_latency"])
    ]


def published_accuracies(arch: str, data: str) -> pd.DataFrame:
    """Return the rows of `published_accuracy.csv`, smallest ratio first."""
    table = _read("published_accuracy.csv")
    return table[(table["arch"] == arch) & (table["data"] == data)].sort_values("width_ratio")


def published_widths(arch: str, data: str) -> pd.DataFrame:
    """Return a row per iteration of the published descent, a column per layer; may be empty."""
    table = _read("published_widths.csv")
    own = table[(table["arch"] == arch) & (table["data"] == data)]
    layers = list(dict.fromkeys(own["layer"]))
    return own.pivot(index="iteration", columns="layer", values="width")[layers]


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(_HERE / name)


def _describe_row(name: str, row: dict[str, float]) -> str:
    return (
        f"<b>published: {name}, {row['width_ratio']:g}x</b><br>"
        f"last epoch {row['last_epoch_test_mean']:.2f} % ({row['epochs']} epochs, "
        f"{row['seeds']} seeds)<br>best test epoch {row['best_test_mean']:.2f} %"
    )
