"""Draw test accuracy against parameters from the numbers of a study, as SVG."""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))

from svg import GREY, ORANGE, Axes, page, text

STUDY = Path(__file__).resolve().parents[2] / "studies" / "vgg11-cifar10-params"
TICKS = {"0.5 M": 500_000, "1 M": 1_000_000, "2 M": 2_000_000, "3 M": 3_000_000}
TITLE = "test accuracy (%) against parameters (log scale), VGG11, CIFAR-10"


def draw() -> str:
    """Return the figure: a dot for each seed, a larger one for their mean."""
    axes = Axes((450_000, 3_300_000), (74.5, 79.0))
    outcomes = pd.read_csv(STUDY / "outcomes.csv")
    means = outcomes.groupby(["method", "params"], as_index=False)["test_score"].mean()
    uniform, law = (means[means["method"] == name] for name in ("uniform", "neuralscale"))
    curve = zip(uniform["params"], uniform["test_score"], strict=True)
    parts = [*axes.draw(range(75, 80), TICKS, TITLE), axes.line(curve, GREY)]
    for rows, radius in ((outcomes, 4), (means, 7)):
        for row in rows.itertuples():
            colour = GREY if row.method == "uniform" else ORANGE
            parts.append(axes.dot(row.params, row.test_score, radius, colour))
    (found,) = law.itertuples()
    first, *_, last = uniform.itertuples()
    x, y = axes.x(found.params), axes.y(found.test_score)
    gain = f"+{found.test_score - first.test_score:.1f} points"
    parts += [
        text(x + 14, y + 4, "NeuralScale", ORANGE, "start"),
        text(
            *(axes.x(last.params) - 14, axes.y(last.test_score) - 8),
            *("uniform scaling", GREY, "end"),
        ),
        f'<path d="M{x:.1f} {y:.1f}V{axes.y(first.test_score):.1f}" stroke="{ORANGE}" '
        'stroke-dasharray="4"/>',
        text(x + 14, axes.y(76.9), gain, ORANGE, "start"),
    ]
    return page(parts)


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw())
