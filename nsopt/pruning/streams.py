"""Residual streams of a network that shrinks, where identity shortcuts add what blocks make.

If one block no longer reads a channel of the stream, an identity may still carry it to a block that
does. Groups then have two lists of channels: those that operations read (kept), and those of the
tensor that convolutions write.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.models.networks import Design
from nsopt.scaling.cost import IntArray


class Streams:
    """The identity shortcuts of `model`, and where layers read from streams.

    Channels are original ones per group, as ascending int64 arrays.
    """

    def __init__(self, design: Design, model: nn.Module) -> None:
        present = dict(model.named_modules()).keys()
        named = {f"{block}_identity": pair for block, pair in design.pairs.items()}
        self._model = model
        self._identities = {path: pair for path, pair in named.items() if path in present}
        self._reads = {path: design.group_of[layer] for path, layer in design.reads.items()}

    def find_written(self, kept: Sequence[IntArray]) -> list[IntArray]:
        """Return the channels that convolutions write, for those that operations read."""
        written, streams = list(kept), set(self._reads.values())
        for source, target in sorted(self._identities.values(), reverse=True):
            if source in streams:
                written[source] = np.union1d(written[source], written[target])
        return written

    def open(self) -> None:
        """Remove the selections, which the next cut replaces."""
        for path in self._reads.keys() | self._identities.keys():
            self._model.add_module(path, nn.Identity())

    def select(self, kept: Sequence[IntArray]) -> None:
        """Put a Selection wherever an identity connects tensors with different channels."""
        device, written = next(self._model.parameters()).device, self.find_written(kept)
        wanted = {path: (group, kept[group]) for path, group in self._reads.items()}
        wanted |= {path: (one, written[other]) for path, (one, other) in self._identities.items()}
        for path, (group, channels) in wanted.items():
            source = find_positions(channels, written[group])
            if len(channels) < len(written[group]) or (source < 0).any():
                module = Selection(source, len(written[group])).to(device)
                self._model.add_module(path, module)


def find_positions(channels: IntArray, within: IntArray) -> IntArray:
    """Return the index of each of `channels` in the ascending array `within`, or -1."""
    index = np.searchsorted(within, channels)
    index[index == len(within)] = 0
    return np.where(within[index] == channels, index, -1)


class Selection(nn.Module):
    """Selects channels of a tensor (B, C, H, W) with a 1x1 convolution by a matrix of 0 and 1.

    This is faster, forwards and backwards, than gathering from channels-last memory.

    Args:
        source: for each output channel, the index of the input channel, or -1 for zeros.
        channels: number of input channels.
    """

    def __init__(self, source: IntArray, channels: int) -> None:
        super().__init__()
        matrix = torch.zeros(len(source), channels, 1, 1)
        (there,) = (source >= 0).nonzero()
        matrix[torch.from_numpy(there), torch.from_numpy(source[there])] = 1
        self.register_buffer("matrix", matrix, persistent=False)
        self.matrix: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.matrix.to(x.dtype))
