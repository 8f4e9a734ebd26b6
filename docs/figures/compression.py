"""Draw test accuracy against MACs of a compressed ResNet-20 from a study, as SVG."""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))

from svg import BLUE, GREY, ORANGE, Axes, page, text

STUDY = Path(__file__).resolve().parents[2] / "studies" / "compress-whole-cifar10"
BLACK, GREEN, LIGHT = "#202124", "#2a9d5c", "#7db8e0"
ARMS = {  # name, colour, and how far below its point at a quarter the name is
    "compress": ("nsopt compress", ORANGE, 0),
    "knapsack": ("knapsack, importance per MAC", GREEN, 10),
    "torch-pruning, trained between": ("Torch-Pruning, training between", BLUE, -4),
    "uniform": ("uniform widths that inherit", GREY, 16),
    "torch-pruning": ("Torch-Pruning, one ranking", LIGHT, 5),
}
TITLE = "test accuracy (%) against millions of MACs (log scale)"


def draw() -> str:
    """Return the figure: a dot for each seed, a larger one for their mean."""
    rows = pd.read_csv(STUDY / "outcomes.csv").query("network == 'resnet20'")
    rows["millions"] = rows["macs"] / 1e6
    (whole,) = rows[rows["arm"] == "whole"].itertuples()
    axes = Axes((2.6, 46), (81.0, 88.5))
    parts = axes.draw(range(82, 89), {f"{macs}": macs for macs in (10, 20, 40)}, TITLE)
    for arm, (name, colour, below) in ARMS.items():
        own = rows[rows["arm"] == arm]
        means = own.groupby("share")[["millions", "test"]].mean().sort_values("millions")
        points = [(row.millions, row.test) for row in means.itertuples()]
        parts.append(axes.line(points, colour))
        parts += [axes.dot(row.millions, row.test, 3, colour) for row in own.itertuples()]
        parts += [axes.dot(*point, 6, colour) for point in points]
        x, y = points[0]
        parts.append(text(axes.x(x) - 14, axes.y(y) + below, name, colour, "end"))
    parts.append(axes.dot(whole.millions, whole.test, 7, BLACK))
    place = axes.x(whole.millions), axes.y(whole.test) + 24
    parts.append(text(*place, "whole network", BLACK, "end"))
    return page(parts)


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw())
