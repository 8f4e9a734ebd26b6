"""Colours of methods as people with any colour vision see them."""

from itertools import combinations

import numpy as np
import pytest

from nsopt.methods.registry import report_order
from nsopt.reports.figures import method_styles
from nsopt.storage.schema import RANKED

# What is seen of linear RGB without one kind of cones (Machado, Oliveira & Fernandes, 2009).
SEEN = {
    "all": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
EASILY_APART = 15.0  # CIELAB; 2 is just noticeable side by side


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(TO_XYZ @ rgb.clip(0, 1) / WHITE)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("cones", SEEN)
def test_colours_of_methods_are_distinct_for_any_colour_vision(cones: str) -> None:
    built_in = ("uniform", "magnitude", "morphnet", "neuralscale", *RANKED)
    assert set(built_in) <= set(report_order())
    styles = method_styles(built_in)
    for one, other in combinations(built_in, 2):
        seen = [lab(SEEN[cones] @ linear(styles[name].colour)) for name in (one, other)]
        assert np.linalg.norm(seen[0] - seen[1]) > EASILY_APART, (one, other)
