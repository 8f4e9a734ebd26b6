"""The accuracies that the paper's authors published, to be drawn beside measured ones.

`published_accuracy.csv`: per network, data set, method and width ratio, statistics over seeds of
the published runs of NeuralScale (Lee & Lee, CVPR 2020; they reproduce its Tables 1 to 6).
`budget_params` is the number of parameters of the uniform network at that ratio.
"""

from importlib.resources import files
from typing import NamedTuple

import pandas as pd

from nsopt.methods.registry import is_method, method_order


class PublishedLine(NamedTuple):
    """One published method: parameters and mean test accuracy of the last epoch, per ratio."""

    method: str
    label: str
    params: list[float]
    accuracy: list[float]
    text: list[str]


def published_lines(arch: str, data: str) -> list[PublishedLine]:
    """What was published on a network and a data set of these names, by methods known here."""
    with (files("nsopt.reports") / "published_accuracy.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    table = table[(table["arch"] == arch) & (table["data"] == data)].sort_values("width_ratio")
    by_method = dict(iter(table.groupby("method")))
    return [
        PublishedLine(
            method=name,
            label=f"published {name}",
            params=rows["budget_params"].astype(float).tolist(),
            accuracy=rows["last_epoch_test_mean"].tolist(),
            text=[_hover(name, row) for row in rows.to_dict("records")],
        )
        for name in method_order([name for name in by_method if is_method(name)])
        for rows in [by_method[name]]
    ]


def _hover(name: str, row: dict[str, float]) -> str:
    return (
        f"<b>published: {name}, {row['width_ratio']:g}x</b><br>"
        f"last epoch {row['last_epoch_test_mean']:.2f} % ({row['epochs']} epochs, "
        f"{row['seeds']} seeds)<br>best test epoch {row['best_test_mean']:.2f} %"
    )
