"""Which method's network to take, and whether a network does better than a guess."""

import math
from collections.abc import Mapping

from nsopt.methods.registry import SCORED

_NEAR_CHANCE = 3.0  # standard errors of the accuracy of a guess


def is_near_chance(accuracy: float, classes: int, images: int) -> bool:
    """Return whether an accuracy (%) on so many images may be that of a guess."""
    chance = 1 / classes
    error = math.sqrt(chance * (1 - chance) / images)
    return accuracy <= 100 * (chance + _NEAR_CHANCE * error)


def choose_method(accuracies: Mapping[str, float], images: int) -> str:
    """Return the method whose network to take, by validation accuracies (%) after fine-tuning.

    Scores rank networks as well as these accuracies, or better (`benchmarks/score_ranks.py`). So
    the scored network is the answer, unless another one is better by more than
    `100 sqrt(2 p (1 - p) / images)`: the standard error of the difference of two accuracies p (a
    share) on independent images, which is larger than that on the same images.

    Args:
        accuracies: by method.
        images: number of validation images.
    """
    best, own = max(accuracies, key=lambda name: accuracies[name]), SCORED.name
    if own not in accuracies:
        return best
    share = accuracies[best] / 100
    error = 100 * math.sqrt(2 * share * (1 - share) / images)
    return best if accuracies[best] > accuracies[own] + error else own
