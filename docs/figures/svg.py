"""Draw axes, text and a page as SVG."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WIDTH, HEIGHT = 600, 340
LEFT, RIGHT, TOP, BOTTOM = 50, 580, 24, 280
GREY, ORANGE, BLUE = "#5f6368", "#d95f02", "#1f77b4"


@dataclass(frozen=True)
class Axes:
    """Where numbers are on the page: the horizontal axis is logarithmic."""

    horizontal: tuple[float, float]
    vertical: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = (math.log(limit) for limit in self.horizontal)
        return LEFT + (RIGHT - LEFT) * (math.log(value) - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.vertical
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    def draw(self, lines: Iterable[int], ticks: Mapping[str, float], title: str) -> list[str]:
        """Return horizontal lines with their numbers, and ticks by their labels."""
        parts = []
        for value in lines:
            y = self.y(value)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#ddd"/>')
            parts.append(text(LEFT - 8, y + 4, f"{value}", GREY, "end"))
        for label, value in ticks.items():
            parts.append(text(self.x(value), BOTTOM + 22, label, GREY, "middle"))
        return [*parts, text((LEFT + RIGHT) / 2, HEIGHT - 14, title, GREY, "middle")]

    def dot(self, x: float, y: float, radius: int, colour: str) -> str:
        return f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" fill="{colour}"/>'

    def line(self, points: Iterable[tuple[float, float]], colour: str) -> str:
        words = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline points="{words}" fill="none" stroke="{colour}" stroke-width="2"/>'


def text(x: float, y: float, words: str, colour: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{words}</text>'


def page(parts: list[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="16">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )
