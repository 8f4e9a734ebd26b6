"""How far two laws are apart in what counts: the widths that they give at budgets."""

from collections.abc import Sequence

import numpy as np

from nsopt.scaling.cost import CostModel
from nsopt.scaling.law import ScalingLaw, floor_widths
from nsopt.scaling.solve import solve_widths

RATIOS = tuple(np.geomspace(0.125, 1.0, 7).tolist())


def law_distance(
    one: ScalingLaw,
    other: ScalingLaw,
    cost: CostModel,
    base_widths: Sequence[int],
    ratios: Sequence[float] = RATIOS,
) -> float:
    """Root mean square, over layers and budgets, of the differences of the logarithms of widths.

    The budgets are the costs of uniform networks at `ratios`; 0.1 means that widths differ by about
    10 %. What two searches of one protocol with different seeds are apart is the noise below which
    no two protocols can be told apart.
    """
    budgets = [cost(floor_widths(ratio, base_widths)) for ratio in ratios]
    first, second = (np.log(solve_widths(law, cost, budgets).widths) for law in (one, other))
    return float(np.sqrt(np.mean(np.square(first - second))))
