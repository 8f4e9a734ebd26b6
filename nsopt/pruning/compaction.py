"""Cut pruned channels out of the tensors of a network from a table while it trains.

A pruned channel is zero. It costs as much as any other channel and changes nothing: its readers get
zeros and send back no gradient. Without it the network computes the same numbers faster. Parameters
become new objects, because autograd remembers the shapes of old ones. BatchNorm statistics and
momentum are cut in the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.models.architecture import TableArchitecture
from nsopt.models.layers import Selection, slice_channels
from nsopt.models.tracing.resize import describe_module, replace_tensors
from nsopt.pruning.gates import make_gate
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
    def of(cls, arch: TableArchitecture, model: nn.Module, kept: Sequence[IntArray]) -> Self:
        """Return the layout of `model`, a network of `arch`, with the channels `kept`."""
        written = list(kept)
        present = dict(model.named_modules()).keys() & arch.identities.keys()
        streams = set(arch.stream_reads.values())
        for source, target in sorted((arch.identities[path] for path in present), reverse=True):
            if source in streams:
                written[source] = np.union1d(written[source], written[target])
        return cls(tuple(kept), tuple(written))


class PrunableTable:
    """A network made from a table of operations, which shrinks.

    Attributes:
        gates: per group, where units are scored.
    """

    def __init__(self, arch: TableArchitecture, model: nn.Module, widths: Sequence[int]) -> None:
        self._arch = arch
        self._model = model
        self._layout = Layout.of(arch, model, [np.arange(width) for width in widths])
        self.gates = [[make_gate(m) for m in group] for group in arch.gate_modules(model)]

    @property
    def kept(self) -> Sequence[IntArray]:
        """Per group, the original units that are left, ascending."""
        return self._layout.kept

    @property
    def widths(self) -> Sequence[int]:
        """The widths that the record gets."""
        return [len(channels) for channels in self.kept]

    def shrink(self, kept: Sequence[IntArray], optimizer: torch.optim.SGD) -> None:
        """Cut the network and the optimizer's momentum down to the units `kept`."""
        model, old, new = self._model, self._layout, Layout.of(self._arch, self._model, kept)
        device = next(model.parameters()).device
        read, written = (
            [
                torch.from_numpy(find_positions(channels, within)).to(device)
                for channels, within in zip(after, before, strict=True)
            ]
            for after, before in ((new.kept, old.kept), (new.written, old.written))
        )
        operations = {operation.name: operation for operation in self._arch.operations}

        def cut(name: str, tensor: Tensor) -> Tensor:
            operation = operations.get(name.rpartition(".")[0])
            if operation is None:  # of a Selection, which is replaced below
                return tensor
            part = slice_channels(operation, tensor, read, written)
            layout = torch.channels_last if part.ndim == 4 else torch.contiguous_format
            return part.contiguous(memory_format=layout)

        cut_tensors(model, optimizer, cut)
        for path, module in model.named_modules():
            if path in operations:
                describe_module(module, 1 if operations[path].kind == "depthwise" else None)
        select_channels(self._arch, model, new)
        self._layout = new


def select_channels(arch: TableArchitecture, model: nn.Module, layout: Layout) -> None:
    """Put a Selection wherever an identity connects tensors with different channels."""
    device = next(model.parameters()).device
    wanted = {path: (group, layout.kept[group]) for path, group in arch.stream_reads.items()}
    wanted |= {path: (one, layout.written[other]) for path, (one, other) in arch.identities.items()}
    present = dict(model.named_children())
    for path, (group, channels) in wanted.items():
        if path in present:
            written = layout.written[group]
            source = find_positions(channels, written)
            same = len(channels) == len(written) and (source >= 0).all()
            module = nn.Identity() if same else Selection(source, len(written)).to(device)
            model.add_module(path, module)


def cut_tensors(
    model: nn.Module, optimizer: torch.optim.SGD, cut: Callable[[str, Tensor], Tensor]
) -> None:
    """Replace buffers, parameters and their momentum by what `cut` leaves of them, by name."""

    def shrink(name: str, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            return cut(name, tensor)
        smaller = nn.Parameter(cut(name, tensor.detach()), tensor.requires_grad)
        momentum = optimizer.state.pop(tensor, {}).get("momentum_buffer")
        if momentum is not None:
            optimizer.state[smaller] = {"momentum_buffer": cut(name, momentum)}
        return smaller

    replace_tensors(model, shrink)
    optimizer.param_groups[0]["params"] = list(model.parameters())


def find_positions(channels: IntArray, within: IntArray) -> IntArray:
    """Return the index of each of `channels` in the ascending array `within`, or -1."""
    index = np.searchsorted(within, channels)
    index[index == len(within)] = 0
    return np.where(within[index] == channels, index, -1)
