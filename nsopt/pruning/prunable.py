"""A network that loses units while it trains, from a table of operations or traced."""

from collections.abc import Sequence

import torch
from torch import nn

from nsopt.models.architecture import Architecture, TableArchitecture
from nsopt.models.tracing.architecture import TracedArchitecture
from nsopt.pruning.compaction import compact
from nsopt.pruning.gates import make_gates
from nsopt.pruning.layout import Layout
from nsopt.pruning.traced import PrunableTrace
from nsopt.scaling.cost import IntArray


class PrunableTable:
    """A network made from a table of operations.

    Attributes:
        gates: per group, where units are scored.
    """

    def __init__(self, arch: TableArchitecture, model: nn.Module, widths: Sequence[int]) -> None:
        self._arch = arch
        self._model = model
        self._layout = Layout.full(widths)
        self.gates = make_gates(arch.gate_modules(model))

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
        layout = Layout.of(self._arch, self._model, kept)
        compact(self._arch, self._model, optimizer, self._layout, layout)
        self._layout = layout


def make_prunable(
    arch: Architecture, model: nn.Module, widths: Sequence[int]
) -> PrunableTable | PrunableTrace:
    """Return `model`, an unpruned network of `arch` with these widths, as one that shrinks."""
    if isinstance(arch, TracedArchitecture):
        return PrunableTrace(arch.network.retrace(model), model)
    assert isinstance(arch, TableArchitecture)
    return PrunableTable(arch, model, widths)
