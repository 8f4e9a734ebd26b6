"""What a trace records: which indices of a network's tensors belong together.

An *atom* is one index of one dimension of one parameter or buffer, such as row 3 of `conv.weight`.
While the network runs, every dimension of every tensor has a *label*:
- an array with one atom for each of its indices,
- None if no parameter determines its size,
- ANY if all its indices hold the same, as in `torch.zeros`.

Where an operation requires equal sizes, such as an addition, the trace *joins* the atoms of both
labels: they are kept or removed together. *Frozen* atoms are never removed. Atoms are *inexact* if
removing them gives another result than setting them to zero, as under a softmax.
"""

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nsopt.errors import NsoptError

Atoms = NDArray[np.int64]


class Indifferent(Enum):
    """The label of a dimension whose indices all hold the same, as in `torch.zeros`."""

    ANY = "any"


ANY = Indifferent.ANY
Label = Atoms | Literal[Indifferent.ANY] | None
Labels = tuple[Label, ...]


class TraceError(NsoptError):
    """The network does not run with these widths, or cannot be traced.

    Args:
        message: one line for the user.
        atoms: the atoms of the tensors that the failing operation took.

    Attributes:
        step: number of operations that ran before it failed.
    """

    def __init__(self, message: str, atoms: Atoms | None = None) -> None:
        super().__init__(message)
        self.atoms = np.zeros(0, np.int64) if atoms is None else atoms
        self.step = math.inf


@dataclass(frozen=True, eq=False)
class Frozen:
    """Atoms that must stay, why, and the path of the module that ran when this was found."""

    atoms: Atoms
    reason: str
    module: str


@dataclass(frozen=True, eq=False)
class Product:
    """The multiply-accumulates of one operation: `factor` times the sizes of `dimensions`."""

    factor: int
    dimensions: tuple[Atoms, ...]


@dataclass(eq=False)
class Trace:
    """The record of a run on labels.

    Attributes:
        count: number of atoms.
        steps: number of operations that have run.
        edges: pairs of arrays of atoms that are joined index by index.
        frozen: atoms that must stay.
        inexact: arrays of inexact atoms.
        products: the multiply-accumulates of the first run.
        group_sizes: channels per group, by the path of a grouped convolution or norm; only where
            the number of groups changes with the width.
        choices: pairs of an operation and a decision, in order. Networks of other widths must
            decide alike.
        read: ids of parameters and buffers, in the order of their first use.
        makers: atoms of the channels that a product with a parameter makes.
        norms: pairs of the atoms of normalised channels, and those of the norm's scale.
    """

    count: int = 0
    steps: int = 0
    edges: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    frozen: list[Frozen] = field(default_factory=list)
    inexact: list[Atoms] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    group_sizes: dict[str, int] = field(default_factory=dict)
    choices: list[tuple[str, Any]] = field(default_factory=list)
    read: dict[int, None] = field(default_factory=dict)
    makers: list[Atoms] = field(default_factory=list)
    norms: list[tuple[Atoms, Atoms]] = field(default_factory=list)

    def new_atoms(self, count: int) -> Atoms:
        """Return `count` new atoms, which are not joined to others."""
        self.count += count
        return np.arange(self.count - count, self.count)


def select_atoms(labels: Any) -> list[Atoms]:
    """Return those labels that are arrays of atoms."""
    return [label for label in labels if isinstance(label, np.ndarray)]
