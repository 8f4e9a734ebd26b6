"""Interpolate measured kernel times over one or two sizes."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nsopt.scaling.law import FloatArray

BLOCK = 16  # channels that kernels work on together


@dataclass(frozen=True, eq=False)
class Table:
    """Milliseconds on a grid of D = 1 or 2 sizes, which never fall along either.

    Between grid points they are (bi)linear, beyond the last they grow in proportion. axes: D
    ascending arrays; values: on their grid; blocks: D numbers; a larger size is first rounded up
    to a multiple, as kernels pad.
    """

    axes: tuple[FloatArray, ...]
    values: FloatArray
    blocks: tuple[int, ...]

    @classmethod
    def of(
        cls, axes: tuple[FloatArray, ...], measured: FloatArray, blocks: tuple[int, ...]
    ) -> Self:
        """Make a table from measurements. Where they fall, it takes the middle between the smallest
        increase and the smallest decrease that make them monotone."""
        raised, lowered = measured, np.flip(measured)
        for axis in range(measured.ndim):
            raised = np.maximum.accumulate(raised, axis=axis)
            lowered = np.minimum.accumulate(lowered, axis=axis)
        return cls(axes, (raised + np.flip(lowered)) / 2, blocks)

    def at(self, sizes: FloatArray) -> FloatArray:
        """Return milliseconds (...) at sizes (..., D)."""
        blocks = np.array(self.blocks)
        padded = np.where(sizes > blocks, np.ceil(sizes / blocks) * blocks, sizes)
        places = [_place(axis, padded[..., d]) for d, axis in enumerate(self.axes)]
        if len(places) == 1:
            ((low, part),) = places
            high = np.minimum(low + 1, self.values.shape[0] - 1)
            result: FloatArray = (1 - part) * self.values[low] + part * self.values[high]
        else:
            (i, u), (j, v) = places
            k = np.minimum(i + 1, self.values.shape[0] - 1)
            m = np.minimum(j + 1, self.values.shape[1] - 1)
            near = (1 - v) * self.values[i, j] + v * self.values[i, m]
            far = (1 - v) * self.values[k, j] + v * self.values[k, m]
            result = (1 - u) * near + u * far
        for d, axis in enumerate(self.axes):
            result = result * np.maximum(padded[..., d] / axis[-1], 1.0)
        return result

    def to_dict(self) -> dict[str, Any]:
        axes = [axis.tolist() for axis in self.axes]
        return {"axes": axes, "values": self.values.tolist(), "blocks": list(self.blocks)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        axes = tuple(np.array(axis, dtype=np.float64) for axis in data["axes"])
        return cls(axes, np.array(data["values"], dtype=np.float64), tuple(data["blocks"]))


def _place(axis: FloatArray, sizes: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Return the index of the grid point at or below each size, and the fraction to the next one.

    Sizes below the first point count as the first, sizes beyond the last as the last.
    """
    if len(axis) == 1:
        return np.zeros(sizes.shape, dtype=np.int64), np.zeros(sizes.shape)
    low = np.clip(np.searchsorted(axis, sizes, side="right") - 1, 0, len(axis) - 2)
    part = (sizes - axis[low]) / (axis[low + 1] - axis[low])
    return low, np.clip(part, 0.0, 1.0)
