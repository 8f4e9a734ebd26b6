"""Propose ties (lifts.py): dimensions that may have to shrink together."""

from collections.abc import Container, Iterable, Iterator
from itertools import product

import numpy as np
from torch import nn

from nsopt.tracing.groups import Family
from nsopt.tracing.labels import Trace
from nsopt.tracing.search.lifts import Lifts, Tie


def find_tie(family: Family, first: int, second: int) -> Tie | None:
    """Return dimensions in which two groups have the same places, or None without any.

    Other groups may have the other places: parts of a dimension are tied with those of another one.
    """
    pairs = product(*(family.groups[group].per_dimension for group in (first, second)))
    for a, b in pairs:
        one, other = family.dimensions[a], family.dimensions[b]
        alone = family.single[[a, b]]
        if len(one.atoms) != len(other.atoms) or alone[0] != alone[1]:
            continue
        if alone[0] or np.array_equal(family.find_places(a, first), family.find_places(b, second)):
            return (one.tensor, one.axis), (other.tensor, other.axis)
    return None


def propose_ties(
    template: nn.Module, family: Family, trace: Trace, groups: Iterable[int], known: Lifts
) -> Iterator[Lifts]:
    """Yield ties of parts of splits, and of square weights, to one of these groups.

    The second one ties inputs of PyTorch's attention to its values, which are as wide. The
    arguments are as for `propose_numbers`.
    """
    wanted = set(groups)
    attentions = [
        ((f"{path}.in_proj_weight", 1), (f"{path}.out_proj.weight", 1))
        for path, module in template.named_modules()
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
    ]
    split = {
        i
        for i, rows in enumerate(trace.parts)
        if rows.shape[1] > 1 and not wanted.isdisjoint(family.groups_of([rows]))
    }
    if split - known.parts:
        yield Lifts(parts=frozenset(split))
    if attentions:
        yield Lifts(ties=tuple(attentions))
    yield from propose_squares(template, family, wanted, known, [1])


def propose_squares(
    template: nn.Module,
    family: Family,
    groups: Iterable[int],
    known: Lifts,
    squares: Container[int],
) -> Iterator[Lifts]:
    """Yield ties of rows and columns of weights that consist of so many squares.

    One covers the weights of one name in one type of module, or all in a type of module. The
    arguments are as for `propose_numbers`.
    """
    modules, wanted = dict(template.named_modules()), set(groups)
    square = {
        tensor: sides
        for tensor, sides in _find_square_weights(family, squares)
        if _sides_of(tensor) not in known.ties
    }
    owners = {tensor: _find_owner(modules, tensor) for tensor in square}
    kinds = dict.fromkeys(owners[tensor] for tensor, sides in square.items() if wanted & sides)
    for kind in kinds:
        yield Lifts(ties=tuple(_sides_of(t) for t in square if owners[t] == kind))
    for user in dict.fromkeys(user for user, _ in kinds):
        yield Lifts(ties=tuple(_sides_of(t) for t in square if owners[t][0] is user))


def _sides_of(tensor: str) -> Tie:
    """Return the rows and columns of a weight."""
    return (tensor, 0), (tensor, 1)


def _find_owner(modules: dict[str, nn.Module], tensor: str) -> tuple[type[nn.Module], str]:
    """Return the type of the innermost module that also holds another weight, and the name in it.

    It is the attention around a projection, even if the projection is a convolution with a norm.
    """
    names = tensor.split(".")
    for i in range(len(names) - 1, 0, -1):
        owner = modules[".".join(names[:i])]
        if sum(p.ndim > 1 for p in owner.parameters()) > 1:
            return type(owner), ".".join(names[i:])
    return type(modules[""]), tensor


def _find_square_weights(family: Family, squares: Container[int]) -> Iterator[tuple[str, set[int]]]:
    """Yield tensors whose first two dimensions differ in groups, but are as of so many squares.

    Each comes with the indices of these groups.
    """
    atoms = {(d.tensor, d.axis): d.atoms for d in family.dimensions}
    for (tensor, axis), rows in atoms.items():
        columns = atoms.get((tensor, 1))
        if axis or columns is None:
            continue
        few, many = sorted(map(len, (rows, columns)))
        if few and many % few == 0 and many // few in squares:
            sides = [family.groups_of([side]) for side in (rows, columns)]
            if sides[0] != sides[1] and -1 not in sides[0] | sides[1]:
                yield tensor, sides[0] | sides[1]
