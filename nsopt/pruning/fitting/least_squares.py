"""Least squares from batches of rows, with a ridge, in bounded memory."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

_LARGEST_GRAM = 2**27  # numbers: 1 GB in float64
_MOST_NUMBERS = 2**28  # of rows: 1 GB in float32
_DEAD = 1e-6  # share of the mean square, added to every square: inputs may be constantly zero
_FREE = 1e-4  # ridge of the constant


@dataclass(eq=False)
class LeastSquares:
    """Sums of rows, and the change of weights that explains them.

    G groups of N rows with P inputs and O outputs are solved side by side. With at least as many
    rows as inputs it keeps only products of the inputs (G, P, P); with fewer it keeps the rows,
    and solves for a matrix (G, N, N) with the same result.

    Attributes:
        inputs: P, without the constant.
        rows: how many rows are expected.
        constant: whether the outputs have a constant.
        ridge: penalty of a change, relative to the squares of the inputs.
        change: of the weights, and of a constant in the last row, (G, P + 1, O), once solved.
    """

    inputs: int
    rows: int
    constant: bool
    ridge: float
    change: Tensor = field(default_factory=lambda: torch.zeros(0))
    _gram: Tensor | None = None
    _cross: Tensor | None = None
    _kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _root: Tensor = field(init=False)
    _scales: Tensor = field(init=False)

    @property
    def by_inputs(self) -> bool:
        """Whether it sums products of inputs."""
        return self.inputs < self.rows and (self.inputs + 1) ** 2 <= _LARGEST_GRAM

    def add(self, inputs: Tensor, missing: Tensor) -> None:
        """Add rows.

        Args:
            inputs: (G, N, P).
            missing: what a change of the weights has to add to the outputs, (G, N, O).
        """
        u, m = inputs.float(), missing.float()
        if self.constant:
            u = torch.cat([u, u.new_ones(*u.shape[:2], 1)], 2)
        if not self.by_inputs:
            self._kept.append((u, m))
            return
        gram, cross = widen(u.mT @ u), widen(u.mT @ m)
        if self._gram is None or self._cross is None:
            self._gram, self._cross = gram, cross
        else:
            self._gram += gram
            self._cross += cross

    def solve(self) -> Tensor:
        """Return `change`."""
        if self._gram is not None and self._cross is not None:
            scale = self._scale(self._gram.diagonal(dim1=-2, dim2=-1))
            gram = self._gram * scale.mT * scale
            gram.diagonal(dim1=-2, dim2=-1).add_(1)
            factor = torch.linalg.cholesky(gram)
            change = torch.cholesky_solve(self._cross * scale.mT, factor)
            self._root = factor.mT
        else:
            u, m = (torch.cat(parts, 1) for parts in zip(*self._kept, strict=True))
            self._kept.clear()
            scale = self._scale(u.square().sum(1))
            self._root = scaled = u.mul_(scale)
            gram = widen(scaled @ scaled.mT)
            gram.diagonal(dim1=-2, dim2=-1).add_(1)
            change = scaled.mT @ torch.cholesky_solve(widen(m), torch.linalg.cholesky(gram)).to(u)
        self._scales, self.change = scale.mT, change * scale.mT
        return self.change

    def distance(self, difference: Tensor) -> Tensor:
        """Return how much more a change loses that differs so from the best one, (G, P + 1, O)."""
        scaled = difference / self._scales
        loss: Tensor = (self._root @ scaled).square().sum()
        return loss if self.by_inputs else loss + scaled.square().sum()

    def spread(self, numbers: Tensor, inverse: bool = False) -> Tensor:
        """Return the change of weights whose loss varies with all `numbers` alike; or the reverse.

        Args:
            numbers: (G, P, O), without the constant.
        """
        count = numbers.shape[1]
        scales, root = self._scales[:, :count], self._root[:, :count, :count]
        if not self.by_inputs:
            return numbers / scales if inverse else numbers * scales
        if inverse:
            return root @ (numbers / scales)
        solved: Tensor = torch.linalg.solve_triangular(root, numbers, upper=True)
        return scales * solved

    def _scale(self, squares: Tensor) -> Tensor:
        """Return the factors of inputs with which all penalties are 1, (G, 1, P + 1).

        Args:
            squares: sum of squares of each input, (G, P + 1).
        """
        floor = _DEAD * squares.mean(-1, keepdim=True)
        penalties = self.ridge * squares + floor
        if self.constant:
            penalties[:, -1] = _FREE * squares[:, -1] + floor[:, 0]
        return penalties.clamp(min=torch.finfo(penalties.dtype).tiny).rsqrt()[:, None]


def most_rows(inputs: int) -> int:
    """Return how many rows of so many inputs can be solved in arrays of 1 GB."""
    rows = max(_MOST_NUMBERS // inputs, 1)
    is_small = inputs**2 <= _LARGEST_GRAM
    return rows if is_small else min(rows, math.isqrt(_LARGEST_GRAM))


def widen(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU if its device has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
