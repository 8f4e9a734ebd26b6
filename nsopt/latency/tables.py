"""Interpolate measured kernel times over one or two sizes."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Self

import numpy as np
from pydantic import PlainSerializer, PlainValidator

from nsopt.scaling.cost import FloatArray, IntArray

BLOCK = 16  # channels that kernels work on together
# Arrays that JSON keeps as lists.
_AS_LIST = PlainSerializer(lambda array: array.tolist())
Floats = Annotated[FloatArray, PlainValidator(partial(np.array, dtype=np.float64)), _AS_LIST]
Integers = Annotated[IntArray, PlainValidator(np.array), _AS_LIST]


@dataclass(frozen=True, eq=False)
class Table:
    """Milliseconds on a grid of D = 1 or 2 sizes. They never fall as a size grows.

    Between grid points they are interpolated linearly; beyond the last point they are proportional
    to the size.

    Attributes:
        axes: the sizes on the grid, D ascending arrays.
        values: milliseconds on the grid.
        blocks: D block sizes. A size above the block is rounded up to a multiple, as kernels pad.
    """

    axes: tuple[Floats, ...]
    values: Floats
    blocks: tuple[int, ...]

    @classmethod
    def of(
        cls, axes: tuple[FloatArray, ...], measured: FloatArray, blocks: tuple[int, ...]
    ) -> Self:
        """Make a table from measurements.

        Where measurements fall, the table has the mean of two monotone versions: values raised to
        the largest before them, and values lowered to the smallest after them.
        """
        raised, lowered = measured, np.flip(measured)
        for axis in range(measured.ndim):
            raised = np.maximum.accumulate(raised, axis=axis)
            lowered = np.minimum.accumulate(lowered, axis=axis)
        return cls(axes, (raised + np.flip(lowered)) / 2, blocks)

    def at(self, sizes: FloatArray) -> FloatArray:
        """Return milliseconds (...) at sizes (..., D)."""
        from scipy.ndimage import map_coordinates  # noqa: PLC0415  (slow to import)

        blocks = np.array(self.blocks)
        padded = np.where(sizes > blocks, np.ceil(sizes / blocks) * blocks, sizes)
        places = [np.interp(padded[..., d], a, np.arange(a.size)) for d, a in enumerate(self.axes)]
        flat = np.reshape(places, (len(places), -1))
        result: FloatArray = map_coordinates(self.values, flat, order=1, mode="nearest")
        result = result.reshape(sizes.shape[:-1])
        for d, axis in enumerate(self.axes):
            result = result * np.maximum(padded[..., d] / axis[-1], 1.0)
        return result
