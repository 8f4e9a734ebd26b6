"""Draw test accuracy against parameters from the numbers of a study, as SVG."""

import math
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "studies" / "vgg11-cifar10-params"
WIDTH, HEIGHT = 600, 340
LEFT, RIGHT, TOP, BOTTOM = 50, 580, 24, 280
PARAMS, ACCURACY = (450_000, 3_300_000), (74.5, 79.0)
GREY, ORANGE = "#5f6368", "#d95f02"


def draw() -> str:
    """Return the figure: a dot for each seed, a larger one for their mean."""
    outcomes = pd.read_csv(STUDY / "outcomes.csv")
    means = outcomes.groupby(["method", "params"], as_index=False)["test_accuracy"].mean()
    uniform, law = (means[means["method"] == name] for name in ("uniform", "neuralscale"))
    line = " ".join(
        f"{_x(row.params):.1f},{_y(row.test_accuracy):.1f}" for row in uniform.itertuples()
    )
    parts = [*_axes(), f'<polyline points="{line}" fill="none" stroke="{GREY}" stroke-width="2"/>']
    for rows, radius in ((outcomes, 4), (means, 7)):
        for row in rows.itertuples():
            colour = GREY if row.method == "uniform" else ORANGE
            parts.append(
                f'<circle cx="{_x(row.params):.1f}" cy="{_y(row.test_accuracy):.1f}" '
                f'r="{radius}" fill="{colour}"/>'
            )
    (found,) = law.itertuples()
    first, *_, last = uniform.itertuples()
    parts += [
        _text(_x(found.params) + 14, _y(found.test_accuracy) + 4, "NeuralScale", ORANGE, "start"),
        _text(_x(last.params) - 14, _y(last.test_accuracy) - 8, "uniform scaling", GREY, "end"),
        f'<path d="M{_x(found.params):.1f} {_y(found.test_accuracy):.1f}'
        f'V{_y(first.test_accuracy):.1f}" stroke="{ORANGE}" stroke-dasharray="4"/>',
        _text(
            _x(found.params) + 14,
            _y(76.9),
            f"+{found.test_accuracy - first.test_accuracy:.1f} points",
            ORANGE,
            "start",
        ),
    ]
    return _page(parts)


def _axes() -> list[str]:
    parts = []
    for accuracy in range(75, 80):
        y = _y(accuracy)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{accuracy}", GREY, "end"))
    for params, label in (
        (500_000, "0.5 M"),
        (1_000_000, "1 M"),
        (2_000_000, "2 M"),
        (3_000_000, "3 M"),
    ):
        parts.append(_text(_x(params), BOTTOM + 22, label, GREY, "middle"))
    title = "test accuracy (%) against parameters (log scale), VGG11, CIFAR-10"
    return [*parts, _text((LEFT + RIGHT) / 2, HEIGHT - 14, title, GREY, "middle")]


def _x(params: float) -> float:
    low, high = (math.log(limit) for limit in PARAMS)
    return LEFT + (RIGHT - LEFT) * (math.log(params) - low) / (high - low)


def _y(accuracy: float) -> float:
    low, high = ACCURACY
    return BOTTOM - (BOTTOM - TOP) * (accuracy - low) / (high - low)


def _text(x: float, y: float, words: str, colour: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{words}</text>'


def _page(parts: list[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="16">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw())
