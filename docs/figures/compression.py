"""Draw test accuracy against milliseconds of compressed networks from a study, as SVG."""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))

from svg import BLUE, GREY, ORANGE, Axes, page, text

STUDY = Path(__file__).resolve().parents[2] / "studies" / "compress-vgg11-cifar10"
ARMS = {  # name, colour, and how far below its fastest point the name is
    "compressed": ("nsopt compress", ORANGE, -12),
    "torch-pruning": ("Torch-Pruning", BLUE, 24),
    "scratch": ("uniform, from scratch", GREY, 28),
}
BLACK = "#202124"
TITLE = "test accuracy (%) against measured ms per batch of 100 (log scale)"


def draw() -> str:
    """Return the figure: a dot for each seed, a larger one for their mean."""
    rows = pd.read_csv(STUDY / "compression.csv")
    (dense,) = rows[rows["arm"] == "dense"].itertuples()
    slowest = dense.ms
    axes = Axes((0.38 * slowest, 1.2 * slowest), (58.0, 75.0))
    ticks = {f"{ms}": ms for ms in (8, 10, 12, 15, 18)}
    parts = axes.draw(range(60, 76, 5), ticks, TITLE)
    for arm, (name, colour, below) in ARMS.items():
        own = rows[rows["arm"] == arm]
        means = own.groupby(["metric", "share"])[["ms", "test"]].mean().sort_values("ms")
        points = [(row.ms, row.test) for row in means.itertuples()]
        parts.append(axes.line(points, colour))
        parts += [axes.dot(row.ms, row.test, 3, colour) for row in own.itertuples()]
        parts += [axes.dot(*point, 6, colour) for point in points]
        x, y = points[0]
        parts.append(text(axes.x(x) - 6, axes.y(y) + below, name, colour, "start"))
    parts.append(axes.dot(slowest, dense.test, 7, BLACK))
    place = axes.x(slowest), axes.y(dense.test) + 24
    parts.append(text(*place, "the trained network", BLACK, "end"))
    return page(parts)


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw())
