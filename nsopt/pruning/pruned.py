"""A network whose units are cut away while it trains, written by hand or traced."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from nsopt.models.architecture import Architecture, TableArchitecture
from nsopt.models.tracing.architecture import TracedArchitecture
from nsopt.pruning.compaction import compact
from nsopt.pruning.gates import Gate, make_gates
from nsopt.pruning.layout import Layout
from nsopt.pruning.traced import TracedPruned
from nsopt.scaling.cost import IntArray


class Pruned(Protocol):
    """What the prune loop needs of a network: where its units are scored, and how they go.

    kept: per group, which of the original units are left, ascending; widths: what a law is told.
    """

    @property
    def kept(self) -> Sequence[IntArray]: ...

    @property
    def widths(self) -> Sequence[int]: ...

    @property
    def gates(self) -> list[list[Gate]]: ...

    def shrink(self, kept: Sequence[IntArray], optimizer: torch.optim.SGD) -> None:
        """Cut the network down to the units `kept`, and the optimizer's momentum with it."""


class TablePruned:
    """A network made of a table of operations."""

    def __init__(self, arch: TableArchitecture, model: nn.Module, widths: Sequence[int]) -> None:
        self._arch = arch
        self._model = model
        self._layout = Layout.full(widths)
        self.gates = make_gates(arch.gate_modules(model))

    @property
    def kept(self) -> Sequence[IntArray]:
        return self._layout.kept

    @property
    def widths(self) -> Sequence[int]:
        return self._layout.widths

    def shrink(self, kept: Sequence[IntArray], optimizer: torch.optim.SGD) -> None:
        layout = Layout.of(self._arch, self._model, kept)
        compact(self._arch, self._model, optimizer, self._layout, layout)
        self._layout = layout


def make_pruned(arch: Architecture, model: nn.Module, widths: Sequence[int]) -> Pruned:
    """`model`, a network of `arch` with these widths, before anything is cut away."""
    if isinstance(arch, TracedArchitecture):
        return TracedPruned(arch.network.at(model), model)
    assert isinstance(arch, TableArchitecture)
    return TablePruned(arch, model, widths)
