"""Which widths to take after fine-tuning, and whether a network does better than a guess."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nsopt.storage.schema import SCORED

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


def choose_method(scores: Mapping[str, Sequence[float]], images: int | None = None) -> str:
    """Return the method whose network to take, by its scores after fine-tuning, one for each seed.

    Scores before fine-tuning, and after a fit, rank networks as well as these, or better
    (`benchmarks/score_ranks.py`). So the scored widths are the answer, unless other ones have a
    mean that is higher by more than the standard error of the difference:

    - of accuracies on independent images (`find_error`), which is larger than on the same images;
    - of other scores, that of the means over seeds. A single seed of either has no error: the
      higher score is the answer.

    Args:
        scores: by method; for images their accuracies (%).
        images: number of validation images; None for other scores.
    """
    means = {method: float(np.mean(values)) for method, values in scores.items()}
    best = max(means, key=lambda method: (means[method], method == SCORED))
    if best == SCORED or SCORED not in means:
        return best
    if images is not None:
        error = math.sqrt(2) * find_error(means[best], images)
    elif min(len(scores[SCORED]), len(scores[best])) > 1:
        pair = [scores[method] for method in (SCORED, best)]
        error = math.hypot(*(np.std(values, ddof=1) / math.sqrt(len(values)) for values in pair))
    else:
        return best
    return best if means[best] > means[SCORED] + error else SCORED
