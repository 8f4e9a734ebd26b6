"""Spend what rounding leaves of a budget.

Along a law several layers reach their next width at about the same scale, and often one of them
costs too much, so that part of the budget remains. Here the other layers go on growing.
"""

import heapq

import numpy as np

from nsopt.scaling.cost import CostFunction, FloatArray, IntArray
from nsopt.scaling.law import ScalingLaw


def fill_widths(
    law: ScalingLaw,
    cost: CostFunction,
    budget: float,
    widths: IntArray,
    step: IntArray,
    widest: FloatArray,
) -> IntArray:
    """Return widths of which no layer can be a step wider and still fit.

    Layers grow in the order in which the law makes them wider. One whose next width does not fit
    keeps its width; the others go on.

    Args:
        law: gives the order.
        cost: maps widths (L,) to a cost.
        budget: the largest cost.
        widths: along the law, (L,).
        step: by which each layer grows, (L,).
        widest: largest widths, (L,).
    """
    filled = widths.copy()
    queue: list[tuple[float, int]] = []

    def put(layer: int) -> None:
        wider = filled[layer] + step[layer]
        scale = float(law.scales(layer, np.array([wider], dtype=float))[0])
        if wider <= widest[layer] and np.isfinite(scale):
            heapq.heappush(queue, (scale, layer))

    for layer in range(len(filled)):
        put(layer)
    while queue:
        _, layer = heapq.heappop(queue)
        filled[layer] += step[layer]
        if cost(filled) <= budget:
            put(layer)
        else:
            filled[layer] -= step[layer]
    return filled
