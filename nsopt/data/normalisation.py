"""The mean and the standard deviation by which images are normalised."""

import math
from collections.abc import Sequence

from nsopt.errors import NsoptError

Numbers = tuple[float, ...]


def read_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[Numbers, Numbers]:
    """Return mean and standard deviation of each channel of pixels from 0 to 1.

    Raises NsoptError for numbers that are not such.
    """
    if mean is None or std is None or not len(mean) == len(std) == channels:
        raise NsoptError(f"give mean= and std=, each with a number for every channel ({channels})")
    if not all(0 < value < math.inf for value in std):
        raise NsoptError("std must be above 0, and finite")
    if not all(0 <= value <= 1 for value in mean):
        raise NsoptError("mean must be of pixels from 0 to 1: divide by 255 if it is of 0 to 255")
    return tuple(mean), tuple(std)
