"""What a trace of a network sees: which indices of its tensors stand for the same thing.

An *atom* is one index of one dimension of one parameter or buffer. Every dimension of every
activation carries a label: the atoms that its indices stand for; None where no parameter decides
its size; or ANY where all its indices are alike. Joined atoms are kept or removed together, frozen
ones always stay.
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
    """The label of a dimension whose indices are all alike, as of `torch.zeros`."""

    ANY = "any"


ANY = Indifferent.ANY
Label = Atoms | Literal[Indifferent.ANY] | None
Labels = tuple[Label, ...]


class TraceError(NsoptError):
    """Widths of a network cannot be changed so.

    atoms: those that met where it showed; step: how many operations had run before.
    """

    def __init__(self, message: str, atoms: Atoms | None = None) -> None:
        super().__init__(message)
        self.atoms = np.zeros(0, np.int64) if atoms is None else atoms
        self.step = math.inf


@dataclass(frozen=True, eq=False)
class Frozen:
    """Atoms that must stay, with the reason and the path of the module where it showed."""

    atoms: Atoms
    reason: str
    module: str


@dataclass(frozen=True, eq=False)
class Product:
    """Multiply-accumulates of one call: `factor` times the sizes of labelled dimensions."""

    factor: int
    dimensions: tuple[Atoms, ...]


@dataclass(eq=False)
class Trace:
    """Collected while a network runs on labels.

    count: of all atoms; steps: operations that have run; edges: pairs of arrays that are joined
    index by index; inexact: atoms whose removal is not the same as setting them to zero;
    products: of the first run; group_sizes: by module, channels per group of a grouped
    convolution or norm whose number of groups follows its width; choices: decisions that networks
    of other widths have to take alike, in order; read: ids of parameters and buffers in the order
    of their first use; makers: atoms of the channels that parameters make in products; norms:
    those that a norm scales, with the atoms of its scale.
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
        """So many atoms that nothing is joined to yet."""
        self.count += count
        return np.arange(self.count - count, self.count)


def arrays(labels: Any) -> list[Atoms]:
    """The labels that are atoms."""
    return [label for label in labels if isinstance(label, np.ndarray)]
