"""The original channels that a network's tensors still have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import nn

from nsopt.models.architecture import TableArchitecture
from nsopt.scaling.cost import IntArray


@dataclass(frozen=True, eq=False)
class Layout:
    """Original channels per group, as ascending int64 arrays.

    The two fields differ in networks with shortcuts: if one block no longer reads a channel of the
    stream, an identity may still carry it to a block that does.

    Attributes:
        kept: the channels that operations read.
        written: the channels of the tensor that convolutions write.
    """

    kept: tuple[IntArray, ...]
    written: tuple[IntArray, ...]

    @classmethod
    def full(cls, widths: Sequence[int]) -> Self:
        """Return the layout of a network before pruning."""
        everything = tuple(np.arange(width) for width in widths)
        return cls(everything, everything)

    @classmethod
    def of(cls, arch: TableArchitecture, model: nn.Module, kept: Sequence[IntArray]) -> Self:
        """Return the layout of `model`, a network of `arch`, with the channels `kept`."""
        written = list(kept)
        present = dict(model.named_modules()).keys() & arch.identities.keys()
        streams = set(arch.stream_reads.values())
        for source, target in sorted((arch.identities[path] for path in present), reverse=True):
            if source in streams:
                written[source] = np.union1d(written[source], written[target])
        return cls(tuple(kept), tuple(written))


def find_positions(channels: IntArray, within: IntArray) -> IntArray:
    """Return the index of each of `channels` in the ascending array `within`, or -1."""
    index = np.searchsorted(within, channels)
    index[index == len(within)] = 0
    return np.where(within[index] == channels, index, -1)
