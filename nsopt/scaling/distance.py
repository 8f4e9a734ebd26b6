"""The distance between two laws: how much their widths at budgets differ."""

from collections.abc import Sequence

import numpy as np

from nsopt.arguments import checked
from nsopt.scaling.cost import CostModel, Widths
from nsopt.scaling.law import ScalingLaw, floor_widths
from nsopt.scaling.solve import solve_widths

RATIOS = tuple(np.geomspace(0.125, 1.0, 7).tolist())


@checked
def law_distance(
    one: ScalingLaw,
    other: ScalingLaw,
    cost: CostModel,
    base_widths: Widths,
    ratios: Sequence[float] = RATIOS,
) -> float:
    """Return the root mean square difference of the log-widths of two laws.

    0.1 means that widths differ by about 10 %. The distance between two searches that differ only
    in their seed is the noise level: smaller differences mean nothing.

    Args:
        one: a law of L layers.
        other: another law of the same layers.
        cost: maps widths (N, L) to costs (N,), such as `arch.cost("params")`.
        base_widths: widths of the original network, L integers.
        ratios: the budgets, as costs of the base widths times these ratios.

    Returns:
        The root of the mean over layers and budgets; 0 for equal widths.

    Raises:
        NoWidthsError: if no widths of a law meet a budget.

    Examples:
        >>> uniform = nsopt.uniform_curve(arch.base_widths)
        >>> nsopt.law_distance(law, uniform, arch.cost("params"), arch.base_widths)
    """
    budgets = [cost(floor_widths(ratio, base_widths)) for ratio in ratios]
    first, second = (
        np.log(solve_widths(law, cost, budgets, warn=False).widths) for law in (one, other)
    )
    return float(np.sqrt(np.mean(np.square(first - second))))
