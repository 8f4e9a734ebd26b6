"""The standard error of an accuracy of images, and whether it may be that of a guess."""

import math

_NEAR_CHANCE = 3.0  # standard errors of the accuracy of a guess


def is_near_chance(accuracy: float, classes: int, images: int) -> bool:
    """Return whether an accuracy (%) on so many images may be that of a guess."""
    chance = 1 / classes
    error = math.sqrt(chance * (1 - chance) / images)
    return accuracy <= 100 * (chance + _NEAR_CHANCE * error)


def find_error(accuracy: float, images: int) -> float:
    """Return the standard error of an accuracy (%) on so many images (Agresti & Coull, 1998)."""
    share = (accuracy / 100 * images + 2) / (images + 4)
    return 100 * math.sqrt(share * (1 - share) / (images + 4))
