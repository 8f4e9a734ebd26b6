"""Least squares from batches of rows, in bounded memory, also of weights that a network computes.

Weight and spectral norms, standardised weights, masks, sums with a product of small matrices and
fake quantisation compute a weight by operations that a run shows. They run again with other
parameters, so that gradients find those whose weight is closest to the fitted one.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from nsopt.inputs import tensors_in
from nsopt.pruning.fitting.products import Product

_LARGEST_GRAM = 2**27  # numbers: 1 GB in float64
_MOST_NUMBERS = 2**28  # of rows: 1 GB in float32
_DEAD = 1e-6  # share of the mean square, added to every square: inputs may be constantly zero
_FREE = 1e-4  # ridge of the constant
_STEPS = 60  # of L-BFGS
_LEAST_GAIN = 1e-3  # of what the unconstrained fit gains, from which a change counts
_TINY = 1e-30


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


@dataclass(frozen=True, eq=False)
class _Step:
    call: Callable[..., Any]
    arguments: tuple[Any, Any]
    results: list[Tensor]
    read: set[int]
    written: set[int]


class Origins:
    """Notes what is computed without the inputs while a network runs.

    Attributes:
        read: storages that operations on inputs read.
    """

    def __init__(self) -> None:
        self._active: set[int] = set()  # storages that depend on inputs
        self._steps: list[_Step] = []
        self.read: set[int] = set()

    def start(self, inputs: Iterable[Tensor]) -> None:
        self._active = {storage_of(tensor) for tensor in inputs}

    def is_active(self, tensor: Tensor) -> bool:
        """Return whether a tensor depends on the inputs."""
        return storage_of(tensor) in self._active

    def note(self, call: Any, args: Any, kwargs: Any, result: Any) -> bool:
        """Note an operation; return whether it reads what depends on the inputs."""
        results = tensors_in(result)
        read = {storage_of(tensor) for tensor in tensors_in([args, kwargs])}
        written = {storage_of(tensor) for tensor in results}
        if read & self._active:
            self._active |= written
            self.read |= read
            return True
        self._active -= written
        self._steps.append(_Step(call, (args, kwargs or {}), results, read, written))
        return False

    def find(self, weight: Tensor, tensors: Mapping[str, Tensor]) -> "Recipe | None":
        """Return how a weight was computed; None if it was not, or not without the inputs.

        Args:
            tensors: parameters and buffers, by name.
        """
        if self.is_active(weight):
            return None
        names = {id(tensor): name for name, tensor in tensors.items()}
        needed, steps = {storage_of(weight)}, list[_Step]()
        for step in reversed(self._steps):
            if needed & step.written:
                steps.append(step)
                needed |= step.read
        read = [tensor for step in steps for tensor in tensors_in(step.arguments)]
        leaves = {names[id(tensor)]: tensor for tensor in read if id(tensor) in names}
        made = [r for step in steps for r in step.results if storage_of(r) == storage_of(weight)]
        for name, leaf in leaves.items():
            for whole in made:
                if leaf.ndim > 1 and leaf.is_floating_point() and leaf.shape == whole.shape:
                    return Recipe(steps[::-1], whole, leaf, name, leaves)
        return None


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a weight was computed.

    Attributes:
        steps: the operations, in their order.
        whole: the weight, in the shape of `carrier`.
        carrier: the tensor from which most of it comes, such as the v of a weight norm.
        name: of `carrier`.
        leaves: all parameters and buffers that it comes from, by name.
    """

    steps: Sequence[_Step]
    whole: Tensor
    carrier: Tensor
    name: str
    leaves: Mapping[str, Tensor]

    @property
    def calls(self) -> tuple[str, ...]:
        """The names of the operations."""
        return tuple(str(step.call) for step in self.steps)

    def compute(self, values: Mapping[int, Tensor]) -> Tensor:
        """Compute `whole` again, with other values of some leaves, by `id`."""
        known = dict(values)

        def find(tensor: Tensor) -> Tensor:
            if id(tensor) not in known:
                known[id(tensor)] = tensor.detach().clone()
            return known[id(tensor)]

        for step in self.steps:
            args, kwargs = tree_map_only(Tensor, find, step.arguments)
            results = tensors_in(step.call(*args, **kwargs))
            known |= {id(old): new for old, new in zip(step.results, results, strict=True)}
        return known[id(self.whole)]

    def locate(self, product: Product) -> Tensor:
        """Return where in `whole`, flattened, each number of the product's weight is, (G, P, O)."""
        whole, weight = self.whole, product.weight
        numbers = torch.arange(whole.numel(), device=whole.device).view(whole.shape)
        count = whole.untyped_storage().nbytes() // whole.element_size()
        stored = numbers.new_zeros(count)
        stored.as_strided(whole.shape, whole.stride(), whole.storage_offset()).copy_(numbers)
        view = stored.as_strided(weight.shape, weight.stride(), weight.storage_offset())
        return product.matrix(view)


def fit_parts(
    recipe: Recipe, product: Product, solver: LeastSquares, free: Sequence[Tensor]
) -> Tensor | None:
    """Change what a weight is computed from, so that the weight is as good as possible.

    Args:
        recipe: of the weight; its carrier changes.
        product: the product with this weight.
        solver: the fit of a weight without constraints, solved.
        free: other leaves that may change.

    Returns:
        The change of the constant, (G, 1, O), empty without one; None, with nothing changed, if no
        change makes the weight better.
    """
    search = _Search(recipe, recipe.locate(product), solver, free)
    with torch.enable_grad():
        if not search.run() < 1 - _LEAST_GAIN:
            return None
    changed = search.values()
    for tensor in (recipe.carrier, *free):
        tensor.data.copy_(changed[id(tensor)].detach())
    return search.constant.detach()


class _Search:
    """Searches the parameters of a computed weight by L-BFGS; for the arguments see `fit_parts`.

    Its unknowns change the loss of the fit about alike, as if the carrier were the weight.
    """

    def __init__(
        self, recipe: Recipe, places: Tensor, solver: LeastSquares, free: Sequence[Tensor]
    ) -> None:
        self._recipe, self._places, self._solver, self._free = recipe, places, solver, free
        self._before = recipe.compute({}).detach().flatten()[places]
        self._most = float(solver.distance(solver.change))
        change, self.constant = (
            part.contiguous() for part in solver.change.tensor_split([places.shape[1]], 1)
        )
        self._moved = solver.spread(change, inverse=True)
        self._others = [t.detach().clone(memory_format=torch.contiguous_format) for t in free]

    def run(self) -> float:
        """Return the distance from the unconstrained fit; 1 is that of the inherited weight."""
        if not self._distance().item() < 1:
            self._moved.zero_()
        unknown = [self._moved, self.constant, *self._others]
        for tensor in unknown:
            tensor.requires_grad_()
        optimizer = torch.optim.LBFGS(
            unknown,
            max_iter=_STEPS,
            tolerance_grad=1e-9,
            tolerance_change=1e-10,
            line_search_fn="strong_wolfe",
        )

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = self._distance()
            loss.backward()
            return loss.detach()

        optimizer.step(step)
        return self._distance().item()

    def values(self) -> dict[int, Tensor]:
        """Return the changed tensors, by the `id` of those that they replace."""
        old, places = self._recipe.carrier, self._places.flatten()
        zeros = self._moved.new_zeros(old.numel())
        change = zeros.index_put((places,), self._solver.spread(self._moved).flatten())
        carrier = old.detach() + change.view(old.shape).to(old)
        others = {id(t): other for t, other in zip(self._free, self._others, strict=True)}
        return others | {id(old): carrier}

    def _distance(self) -> Tensor:
        weight = self._recipe.compute(self.values()).flatten()[self._places]
        found = torch.cat([(weight - self._before).to(self.constant), self.constant], 1)
        return self._solver.distance(found - self._solver.change) / max(self._most, _TINY)


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
