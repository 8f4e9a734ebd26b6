"""Which of a network's original channels are still in its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import nn

from nsopt.models.architecture import TableArchitecture
from nsopt.scaling.cost import IntArray


@dataclass(frozen=True, eq=False)
class Layout:
    """Original channels per searched group, ascending int64 arrays.

    kept: those not pruned, which operations read; written: those of the tensor that convolutions
    write. They differ where a residual stream runs past the gates: a channel that one block no
    longer reads is still written while an identity takes it to a block that does.
    """

    kept: tuple[IntArray, ...]
    written: tuple[IntArray, ...]

    @classmethod
    def full(cls, widths: Sequence[int]) -> Self:
        """Before anything is pruned."""
        everything = tuple(np.arange(width) for width in widths)
        return cls(everything, everything)

    @classmethod
    def of(cls, arch: TableArchitecture, model: nn.Module, kept: Sequence[IntArray]) -> Self:
        """What `model`, a network of `arch`, needs to write when `kept` is left."""
        written = list(kept)
        present = dict(model.named_modules()).keys() & arch.identities.keys()
        streams = set(arch.stream_reads.values())
        for source, target in sorted((arch.identities[path] for path in present), reverse=True):
            if source in streams:
                written[source] = np.union1d(written[source], written[target])
        return cls(tuple(kept), tuple(written))

    @property
    def widths(self) -> list[int]:
        """Channels left in each group."""
        return [len(channels) for channels in self.kept]


def positions(channels: IntArray, within: IntArray) -> IntArray:
    """The index in the ascending array `within` of each of `channels`; -1 where it is not there."""
    index = np.searchsorted(within, channels)
    index[index == len(within)] = 0
    return np.where(within[index] == channels, index, -1)
