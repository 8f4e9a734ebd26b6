"""The record of a trace: which indices of a network's tensors belong together.

An *atom* is one index of one dimension of one parameter or buffer, such as row 3 of `conv.weight`.
While the network runs, every dimension of every tensor has a *label*:
- an array with one atom for each index of the dimension,
- None if no parameter determines its size,
- Filled if the values do not depend on the index: one constant, or noise.

Where an operation requires equal sizes, such as an addition, the trace *joins* the atoms of both
labels: they are kept or removed together. *Frozen* atoms are never removed. Atoms are *inexact* if
removing them gives another result than setting them to zero, as before a softmax.
"""

import math
import traceback
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nsopt.errors import NsoptError

Atoms = NDArray[np.int64]
_LIBRARIES = tuple(f"{path.parent}/" for path in (Path(torch.__file__), Path(__file__).parent))


@dataclass(eq=False)
class Filled:
    """The label of a dimension whose values do not depend on the index: one constant, or noise.

    Attributes:
        size: of the dimension.
        met: the atoms that it met later, as where a first state of zeros is added to the next one.
    """

    size: int
    met: Atoms | None = None


Label = Atoms | Filled | None
Labels = tuple[Label, ...]


class TraceError(NsoptError):
    """The network cannot be traced, or does not run with these widths.

    Args:
        message: one line for the user.
        atoms: the atoms of all tensors among the arguments of the failing operation.

    Attributes:
        step: number of operations that ran before the failure.
        guessed: see `Trace`.
        sizes: all integers, and sizes of tensors, among the arguments of the failing function.
        optional: whether training mode may be left out; a larger example might help instead.
    """

    def __init__(self, message: str, atoms: Atoms | None = None, step: float = math.inf) -> None:
        super().__init__(message)
        self.atoms = np.zeros(0, np.int64) if atoms is None else atoms
        self.step = step
        self.sizes: set[int] = set()
        self.guessed: Sequence[str] = ()
        self.optional = True


class UnknownError(TraceError):
    """The code reads values that are unknown, and may run other layers because of them."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """Atoms that must stay.

    Attributes:
        reason: why, as `explain` shows it to users.
        module: path of the module that was running.
    """

    atoms: Atoms
    reason: str
    module: str


@dataclass(frozen=True, eq=False)
class Product:
    """The multiply-accumulates of one operation: `factor` times the sizes of `dimensions`.

    Attributes:
        module: path of the module that ran it.
    """

    factor: int
    dimensions: tuple[Atoms, ...]
    module: str


Split = tuple[str, tuple[int, ...]]  # the path of a module, and the sizes


@dataclass(frozen=True)
class Reading:
    """How a trace reads code that has several meanings.

    Attributes:
        preferred: the dimension that changes, by the path of a module and the sizes into which it
            splits a dimension.
        turned: paths of convolutions and norms in groups that lose whole groups if they would lose
            the same channels of every group, and the other way round.
    """

    preferred: Mapping[Split, int] = field(default_factory=dict)
    turned: frozenset[str] = frozenset()


@dataclass(eq=False)
class Trace:
    """The record of a run on labels.

    Attributes:
        operations: names of the operations of each mode, with the paths of their modules. Those on
            a single number, such as a norm's count of batches, are not among them.
        passing: arrays of atoms on which the operations of a module work, by its path.
        inferred: the dimension whose size the code gave as -1, or that is preferred, by the path of
            the module and the sizes into which it split a dimension.
        splits: of each split the path of the module, the sizes, the chosen dimension and its atoms.
        parts: of each split into parts of different sizes, its atoms in rows whose length divides
            all sizes: heads of queries, keys and values may be such rows.
        cuts: atoms of parts of dimensions that may change each by itself, by slices or a split.
        grouped: paths of convolutions and norms with groups of several channels, and their atoms.
        group_sizes: channels per group, by the path of a grouped convolution or norm whose number
            of groups changes with the width.
        choices: pairs of an operation and a decision, in order. Networks of other widths must
            make the same decisions.
        makers: atoms of channels that a product with a parameter makes, or of zeros.
    """

    reading: Reading = field(default_factory=Reading)
    count: int = 0  # of atoms
    operations: list[list[tuple[str, str]]] = field(default_factory=lambda: [[]])
    passing: dict[str, list[Atoms]] = field(default_factory=dict)
    edges: list[tuple[Atoms, Atoms]] = field(default_factory=list)  # atoms joined index by index
    frozen: list[Frozen] = field(default_factory=list)
    inexact: list[Atoms] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)  # of the first run
    inferred: dict[Split, int] = field(default_factory=dict)
    splits: list[tuple[str, tuple[int, ...], int, Atoms]] = field(default_factory=list)
    parts: list[Atoms] = field(default_factory=list)
    cuts: list[Atoms] = field(default_factory=list)
    grouped: list[tuple[str, Atoms]] = field(default_factory=list)
    group_sizes: dict[str, int] = field(default_factory=dict)
    choices: list[tuple[str, Any]] = field(default_factory=list)
    read: dict[int, None] = field(default_factory=dict)  # ids of tensors, by their first use
    written: set[tuple[str, str]] = field(default_factory=set)  # paths, and attributes set in a run
    makers: list[Atoms] = field(default_factory=list)
    norms: list[tuple[Atoms, Atoms]] = field(default_factory=list)  # channels, and the scale's
    plain_norms: dict[str, Atoms] = field(default_factory=dict)  # channels by path, without scale
    notes: dict[str, dict[str, None]] = field(default_factory=dict)  # for users, with paths
    guessed: dict[str, None] = field(default_factory=dict)  # lines of unknown conditions
    failed: TraceError | None = None  # why it does not run in training mode

    @property
    def steps(self) -> int:
        """The number of operations that have run."""
        return sum(map(len, self.operations))

    def runs_alike(self, plain: Container[str]) -> bool:
        """Return whether other modes run no operation that the first mode does not run.

        They may end earlier, as detectors do in training. There, dropout of whole layers also draws
        numbers: where the first mode runs nothing in modules without tensors, `plain`, others may.
        """
        first, *others = self.operations
        ran = {path for _, path in first}
        runs = ([o for o in run if o[1] in ran or o[1] not in plain] for run in others)
        return all(first[: len(operations)] == operations for operations in runs)

    def find_frozen(self, atoms: Atoms) -> NDArray[np.bool_]:
        """Return for each atom whether it is frozen so far."""
        return np.isin(atoms, np.concatenate([atoms[:0], *(part.atoms for part in self.frozen)]))

    def is_made(self, atoms: Atoms) -> bool:
        """Return whether a product with a parameter makes channels with all of these atoms."""
        return bool(np.isin(atoms, np.concatenate([atoms[:0], *self.makers])).all())

    def new_atoms(self, count: int) -> Atoms:
        """Return `count` new atoms that are not joined to any other."""
        self.count += count
        return np.arange(self.count - count, self.count)


def select_atoms(labels: Any) -> list[Atoms]:
    """Return only the labels that are arrays of atoms."""
    return [label for label in labels if isinstance(label, np.ndarray)]


def is_of_user(file: str) -> bool:
    """Return whether code is neither of PyTorch nor of nsopt."""
    return not file.startswith(_LIBRARIES)


def find_line(frame: FrameType | None = None) -> str:
    """Return the line of the user's code that runs in a frame or around it, or "" without any."""
    for outer, line in traceback.walk_stack(frame):
        if is_of_user(outer.f_code.co_filename):
            return f"{Path(outer.f_code.co_filename).name}, line {line}"
    return ""
