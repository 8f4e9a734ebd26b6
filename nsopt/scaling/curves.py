"""Curves that need no fit: a fixed configuration scaled by a width multiplier."""

from collections.abc import Sequence

import numpy as np

from nsopt.scaling.power_law import PowerLaw


def uniform_curve(base_widths: Sequence[int]) -> PowerLaw:
    """The curve s * base_widths: a power law with beta = 1 whose scale is the width multiplier.

    Uniform scaling starts from a network's base widths; MorphNet-style and magnitude pruning
    start from a pruned configuration.
    """
    base = np.asarray(base_widths, dtype=np.float64)
    return PowerLaw(alpha=base, beta=np.ones_like(base), r2=np.ones_like(base))


def floor_widths(ratio: float, base_widths: Sequence[int]) -> tuple[int, ...]:
    """Widths of the uniform network at a width ratio, as the paper rounds them: down.

    Their cost is the budget that all methods are given at this ratio.
    """
    return tuple(max(1, int(ratio * width)) for width in base_widths)
