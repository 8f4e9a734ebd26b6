"""Rules of views: which new dimensions hold the channels of old ones."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsopt.tracing.labels import Atoms, Filled, Label, Labels, select_atoms
from nsopt.tracing.rules import rule
from nsopt.tracing.tracer import Tracer

_EXAMPLES = 2  # that count where examples and heads share a dimension


@rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def view(tracer: Tracer, result: Tensor, x: Tensor, sizes: Any = (), *_: Any) -> None:
    """Match runs of old dimensions with runs of new dimensions that have as many elements."""
    old, new, before = tuple(x.shape), tuple(result.shape), tracer.get(x)
    if isinstance(sizes, torch.dtype):
        if x.dtype.itemsize != sizes.itemsize:
            tracer.freeze("holds parts of numbers", before[-1])
            before = (*before[:-1], None)
        tracer.put(result, before)
        return
    inferred = [*sizes].index(-1) if -1 in sizes else len(new)
    if not x.numel():
        tracer.freeze("has no elements", *before)
        return
    labels: list[Label] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first, start = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while math.prod(old[first:i]) != math.prod(new[start:j]):
            if math.prod(old[first:i]) < math.prod(new[start:j]):
                i += 1
            else:
                j += 1
        labels += regroup(tracer, before[first:i], old[first:i], new[start:j], inferred - start)
    tracer.put(result, labels)


def regroup(
    tracer: Tracer, labels: Labels, old: tuple[int, ...], new: tuple[int, ...], inferred: int = 0
) -> list[Label]:
    """Return the labels of new dimensions that hold the elements of some old dimensions.

    Args:
        labels: the labels of the old dimensions.
        old: their sizes.
        new: the sizes of the new dimensions.
        inferred: the one of them whose size the code gives as -1, if it is among them.
    """
    labelled = [d for d, label in enumerate(labels) if isinstance(label, np.ndarray)]
    if len(labelled) > 1:  # what stays anyway needs no label, such as a table's positions
        stays = tracer.trace.find_frozen
        labelled = tracer.choose(
            lambda: [d for d in labelled if not stays(select_atoms([labels[d]])[0]).all()]
        )
        labels = tuple(label if d in labelled else None for d, label in enumerate(labels))
    if not labelled:
        wide = [d for d, n in enumerate(old) if n > 1]
        filled = [d for d in wide if isinstance(labels[d], Filled)]
        if len(filled) in (0, len(wide)):
            if len(filled) == 1 and old[filled[0]] in new:
                return [labels[filled[0]]] * len(new)
            return [Filled(size) if filled or not wide else None for size in new]
        labelled = filled[:1]  # such as heads, which a mask gets before its examples
        labels = (*labels[: filled[0]], tracer.trace.new_atoms(old[filled[0]]))
    if len(labelled) > 1 < len(new) and (sizes := _divide(old, new)):
        return _regroup_parts(tracer, labels, old, new, sizes)
    d = labelled[0]
    if len(labelled) > 1:  # only the largest dimension may still change
        d = tracer.choose(lambda: max(labelled, key=old.__getitem__))
        others = [labels[e] for e in labelled if e != d]
        tracer.freeze("is flattened together with other channels", *others)
    flat = np.tile(
        np.repeat(select_atoms([labels[d]])[0], math.prod(old[d + 1 :])), math.prod(old[:d])
    )
    return _spread(tracer, flat, new, inferred, math.prod(old[:d]))


def _divide(old: Sequence[int], new: Sequence[int]) -> list[int] | None:
    """Return sizes of which both old and new sizes are products of neighbours, if there are any."""
    ends = sorted({1, *accumulate(old, mul), *accumulate(new, mul)})
    if any(end % start for start, end in pairwise(ends)):
        return None
    return [end // start for start, end in pairwise(ends)]


def _share(parts: Sequence[int], sizes: Sequence[int]) -> list[range]:
    """Return the indices of the parts whose product is each size."""
    shares, end = list[range](), 0
    for size in sizes:
        start = end
        while math.prod(parts[start:end]) < size:
            end += 1
        shares.append(range(start, end))
    return shares


def _regroup_parts(
    tracer: Tracer, labels: Labels, old: Sequence[int], new: Sequence[int], sizes: list[int]
) -> list[Label]:
    """Return what `regroup` does, by dividing old dimensions into parts of these sizes.

    Such as queries, examples with heads, and channels, which become queries with examples, and
    heads with channels.
    """
    parts, found = list[Label](), list[Label]()
    for label, size, own in zip(labels, old, _share(sizes, old), strict=True):
        parts += regroup(tracer, (label,), (size,), tuple(sizes[p] for p in own), len(sizes))
    for size, own in zip(new, _share(sizes, new), strict=True):
        own_labels, own_sizes = tuple(parts[p] for p in own), tuple(sizes[p] for p in own)
        found += regroup(tracer, own_labels, own_sizes, (size,)) if own else [None]
    return found


def _spread(
    tracer: Tracer, flat: Atoms, new: tuple[int, ...], inferred: int, lead: int
) -> list[Label]:
    """Return the labels of the dimensions into which a flat dimension is split.

    Only one of them gets atoms: a dimension with the same atoms in every row, or else the one that
    is preferred or inferred (-1, as in `view(batch, length, -1, head_size)`), or else the largest.
    The rows of these are then joined, as in a channel shuffle. A module that infers a dimension for
    its queries may give all sizes for its keys: it splits them alike. The atoms are repeated `lead`
    times, once for each example.
    """
    if len(new) == 1:
        return [flat]
    trace, key = tracer.trace, (tracer.where, new)
    inferred = trace.reading.preferred.get(key, inferred)
    if 0 <= inferred < len(new):
        trace.inferred[key] = inferred
    large = [e for e, size in enumerate(new) if size > 1]
    cube = flat.reshape(new)

    def rows(e: int) -> Atoms:
        return np.moveaxis(cube, e, -1).reshape(-1, new[e])

    def best() -> int:
        sizes = list(new)
        if lead > 1 and new[0] % lead == 0:  # the choice does not depend on their number
            sizes[0] = _EXAMPLES * new[0] // lead
        by_size = sorted(large, key=lambda e: (e != trace.inferred.get(key), -sizes[e]))
        return next((e for e in by_size if (rows(e) == rows(e)[0]).all()), by_size[0])

    chosen = tracer.choose(best)
    if chosen >= len(new):
        raise tracer.refuse_cut()
    tied = tracer.join_rows(rows(chosen))
    trace.splits.append((*key, chosen, tied))
    return [tied if e == chosen else None for e in range(len(new))]


@rule("set", "resize", "resize_as")
def change_in_share(tracer: Tracer, result: Tensor, x: Tensor, source: Any = None, *_: Any) -> None:
    """Give a tensor the labels of the one whose memory it gets; a new shape has none."""
    if tracer.operation == "set" and isinstance(source, Tensor):
        tracer.put(result, tracer.get(source))
    else:
        tracer.freeze("gets another shape in place", *tracer.get(x))
        tracer.put(result, [None] * result.ndim)
