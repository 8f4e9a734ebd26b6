"""Rules of operations that cut, index, pad or concatenate dimensions, or pick or write elements."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from nsopt.inputs import tensors_in
from nsopt.tracing.labels import Atoms, Filled, Label, select_atoms
from nsopt.tracing.rules import rule
from nsopt.tracing.shape_rules import pointwise
from nsopt.tracing.tracer import Tracer
from nsopt.tracing.values import is_mask_of
from nsopt.tracing.view_rules import regroup


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
def split(tracer: Tracer, results: Sequence[Tensor], x: Tensor, _: Any, dim: int = 0) -> None:
    """Label the parts of a dimension. Only parts of one size are joined, as queries with keys."""
    start, labels = 0, list(tracer.get(x))
    whole = labels[dim]
    sizes = {part.shape[dim] for part in results}
    even = tracer.choose(lambda: len(sizes) == 1)
    if isinstance(whole, np.ndarray):
        if tracer.choose(lambda: len(results)) != len(results):
            raise tracer.refuse_cut()
        if not even:
            tracer.trace.parts.append(whole.reshape(-1, math.gcd(*sizes)))
    for part in results:
        kind = "equal" if even else "own"
        labels[dim] = _cut_label(tracer, whole, start, part.shape[dim], kind)
        start += part.shape[dim]
        tracer.put(part, labels)


@rule("slice")
def cut(
    tracer: Tracer, result: Tensor, x: Tensor, dim: int, start: int | None, _end: Any, step: int
) -> None:
    labels, size = list(tracer.get(x)), x.shape[dim]
    first = min(max(0, (start or 0) + (size if (start or 0) < 0 else 0)), size)
    label = labels[dim]
    if result.shape[dim] == 1 < size and not isinstance(x, FakeTensor):  # a row of a parameter
        tracer.freeze("one row is selected", label)
        labels[dim] = None
    elif step == result.shape[dim] == 1 < size:
        if isinstance(label, np.ndarray):
            tracer.choose(lambda: True)  # at other widths it may be longer, and then fits
            tracer.when_read(result, partial(tracer.join_rows, label.reshape(-1, 1)))
        labels[dim] = None
    elif step == 1:
        labels[dim] = _cut_label(tracer, label, first, result.shape[dim])
    elif isinstance(label, np.ndarray):
        if size % step == 0:
            tracer.join_rows(label.reshape(-1, step).T)
        else:
            tracer.freeze("is cut with a stride", label)
        labels[dim] = label[first::step][: result.shape[dim]]
    elif isinstance(label, Filled):
        labels[dim] = Filled(result.shape[dim])
    tracer.put(result, labels)


def _cut_label(
    tracer: Tracer, label: Label, start: int, length: int, kind: str | None = None
) -> Label:
    """Return the label of a part of a dimension.

    Join equal parts index by index, so that halves stay halves and thirds stay thirds. Of unequal
    parts, also in which an equal one was concatenated, and those of channels some of which are
    fixed, as coordinates are, a smaller network shows whether the code adapts their sizes; but a
    parameter, such as a table of positions, may be longer than this input needs.

    Args:
        kind: "equal", "own" (of its own size) or "fixed"; None to choose one.

    Raises:
        TraceError: if an earlier trace has found equal parts, or other parts, and these are none.
    """
    if isinstance(label, Filled) and label.size != length:
        return Filled(length)
    if not isinstance(label, np.ndarray) or length == len(label):
        return label
    part: Atoms = label[start : start + length]
    fits = bool(length) and len(label) % length == 0 and start % length == 0

    def choose_kind() -> str:
        stays = tracer.trace.find_frozen(label)
        is_back = {start, start + length} <= tracer.seams.get(label.tobytes(), set())
        if fits and not is_back and (stays.all() or not stays.any()):
            return "equal"
        is_made = not stays.all() and tracer.trace.is_made(label[~stays])
        return "own" if is_made else "fixed"

    kind = kind or tracer.choose(choose_kind)
    if kind == "own":
        tracer.check_part(label, part)
        if not tracer.trace.find_frozen(part).all():
            tracer.trace.cuts.append(part)
    elif kind == "fixed":
        tracer.freeze("is cut into unequal parts", label)
    elif not fits:
        raise tracer.refuse_cut()
    else:
        tracer.join_rows(label.reshape(-1, length))
    return part


@rule("glu")
def glu(tracer: Tracer, result: Tensor, x: Tensor, dim: int = -1) -> None:
    """Join the two halves of a dimension: one half gates the other."""
    labels = list(tracer.get(x))
    labels[dim] = _cut_label(tracer, labels[dim], 0, x.shape[dim] // 2, "equal")
    tracer.put(result, labels)


@rule("select", "unbind")
def select(tracer: Tracer, result: Any, x: Tensor, dim: int = 0, index: Any = None) -> None:
    """Freeze the dimension that is indexed, and remove it from the labels."""
    labels = tracer.freeze_axes("one channel is selected", x, [dim])
    labels.pop(dim)
    tracer.put_all(result, labels)


@rule("index")
def index(tracer: Tracer, result: Tensor, x: Tensor, indices: Sequence[Tensor | None]) -> None:
    """Freeze the dimensions that are indexed, and keep the labels of all others.

    The tracer has replaced masks by indices.
    """
    labels, given = list(tracer.get(x)), [i for i in indices if i is not None]
    indexed = [d for d, i in enumerate(indices) if i is not None]
    tracer.freeze(
        "is indexed", *(labels[d] for d in indexed), *(a for i in given for a in tracer.get(i))
    )
    axes = _list_axes(x.ndim, indexed, result.ndim - x.ndim + len(indexed))
    kept = [None if axis is None else labels[axis] for axis in axes]
    if not isinstance(x, FakeTensor):  # a table of codes, as in an embedding
        for label in kept:
            tracer.note_maker(label)
    tracer.put(result, kept)


def _list_axes(ndim: int, indexed: Sequence[int], count: int) -> list[int | None]:
    """Return which of `ndim` dimensions each one of an indexed tensor is; None for the indices'.

    `count` is the number of dimensions of all indices together.
    """
    axes: list[int | None] = [d for d in range(ndim) if d not in indexed]
    start = indexed[0] if indexed[-1] - indexed[0] + 1 == len(indexed) else 0
    axes[start:start] = [None] * count
    return axes


@rule("index_select", "index_fill")
def select_rows(tracer: Tracer, result: Tensor, x: Tensor, dim: int, rows: Tensor, *_: Any) -> None:
    index(tracer, result, x, [*[None] * (dim % x.ndim), rows])


@rule("cat")
def concatenate(tracer: Tracer, result: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    """Concatenate the labels along one dimension, and join the labels of all other dimensions."""
    parts = [tensor for tensor in tensors if tensor.ndim == result.ndim and tensor.numel()]
    labels: list[Label] = []
    for d, size in enumerate(result.shape):
        if d != dim % result.ndim:
            meeting = [tracer.get(part)[d] for part in parts]
            labels.append(tracer.join(*meeting) if size > 1 else None)
        elif select_atoms(meeting := [_label_filled(tracer, part, d) for part in parts]):
            sizes = [part.shape[d] for part in parts]
            labels.append(_concatenate_labels(tracer, meeting, sizes))
        else:
            labels.append(None)
    tracer.put(result, labels)


def _label_filled(tracer: Tracer, tensor: Tensor, axis: int) -> Label:
    """Return the label of a dimension. That of a filled tensor, as a first state, may change."""
    labels = list(tracer.get(tensor))
    if isinstance(labels[axis], Filled):
        labels[axis] = tracer.trace.new_atoms(tensor.shape[axis])
        tracer.note_maker(labels[axis])
        tracer.put(tensor, labels)
    return labels[axis]


def _concatenate_labels(tracer: Tracer, labels: Sequence[Label], sizes: Sequence[int]) -> Atoms:
    """Concatenate labels. Dimensions without a label get new, frozen atoms."""
    ends: list[Atoms] = []
    for label, size in zip(labels, sizes, strict=True):
        if isinstance(label, np.ndarray):
            ends.append(label)
        else:
            ends.append(tracer.trace.new_atoms(size))
            tracer.freeze("has a fixed number of channels", ends[-1])
    whole = np.concatenate(ends)
    if len(set(sizes)) > 1:
        tracer.seams[whole.tobytes()] = {0, *np.cumsum(sizes).tolist()}
    return whole


@rule("constant_pad_nd")
def pad(tracer: Tracer, result: Tensor, x: Tensor, widths: Sequence[int], *_: Any) -> None:
    """Label padding with frozen atoms; freeze dimensions that are cropped, or filled and padded."""
    labels = list(tracer.get(x))
    for i in range(len(widths) // 2):
        d, (before, after) = x.ndim - 1 - i, widths[2 * i : 2 * i + 2]
        label = labels[d]
        if isinstance(label, np.ndarray) and min(before, after) < 0:
            tracer.freeze("is cropped", label)
            labels[d] = None
        elif isinstance(label, np.ndarray) and (before or after):
            labels[d] = _concatenate_labels(
                tracer, (None, label, None), (before, len(label), after)
            )
        elif before or after:
            labels[d] = None
    tracer.put(result, labels)


@rule("stack")
def stack(tracer: Tracer, result: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    labels = [tracer.join(*meeting) for meeting in zip(*map(tracer.get, tensors), strict=True)]
    labels.insert(dim % result.ndim, None)
    tracer.put(result, labels)


@rule("roi_align", "roi_pool")
def crop_regions(tracer: Tracer, result: Any, x: Tensor, *_: Any) -> None:
    labels = tracer.freeze_axes(f"is cropped by {tracer.operation}", x, (2, 3))
    tracer.put_all(result, (None, *labels[1:]))


@rule("grid_sampler_2d", "grid_sampler_3d")
def sample(tracer: Tracer, result: Tensor, x: Tensor, grid: Tensor, *_: Any) -> None:
    """Keep the channels of a map that is read at the points of a grid; freeze its sides."""
    tracer.freeze_axes("holds places in a map", grid, range(grid.ndim))
    tracer.put(result, tracer.freeze_axes("holds places in a map", x, range(2, x.ndim)))


@rule("index_put")
def write_rows(
    tracer: Tracer, result: Tensor, x: Tensor, indices: Sequence[Any], values: Tensor, *_: Any
) -> None:
    """Join the dimensions without indices, or under a mask, with those of the values; freeze all
    others."""
    labels, new = list(tracer.get(x)), tracer.get(values)
    indexed = [d for d, index in enumerate(indices) if index is not None]
    given = [index for index in indices if index is not None]
    if is_mask_of(x, given[0]) and values.numel() in (1, x.numel()):
        pointwise(tracer, result, x, given[0])
        if values.numel() > 1:  # of `x[mask] += 1`
            tracer.join(*regroup(tracer, tracer.get(result), x.shape, values.shape), *new)
        return
    if result._is_view() or any(index.dtype in (torch.bool, torch.uint8) for index in given):
        tracer.freeze("is written by indices", *labels, *new)
        tracer.put(result, [None if isinstance(label, Filled) else label for label in labels])
        return
    axes = _list_axes(x.ndim, indexed, max(index.ndim for index in given))  # of the values
    written = [labels[d] for d in indexed]
    for label, size, axis in zip(new[::-1], values.shape[::-1], axes[::-1], strict=False):
        if axis is None:
            written.append(label)
        elif size > 1:
            labels[axis] = tracer.join(labels[axis], label)
    tracer.freeze("is written by indices", *written)
    for d in indexed:  # the values differ along it now
        labels[d] = None if isinstance(labels[d], Filled) else labels[d]
    tracer.put(result, labels)


@rule("sort", "topk", "kthvalue")
def order(tracer: Tracer, result: Any, x: Tensor, *arguments: Any) -> None:
    """Freeze the dimension along which values are ordered; it is the last integer."""
    dim = [a for a in arguments if isinstance(a, int) and not isinstance(a, bool)][-1]
    labels = tracer.freeze_axes("is sorted", x, [dim] if x.ndim else [])
    if tensors_in(result)[0].ndim < x.ndim:
        labels.pop(dim)
    tracer.put_all(result, labels)


@rule("unfold")
def read_windows(tracer: Tracer, result: Tensor, x: Tensor, dim: int, *_: Any) -> None:
    tracer.put(result, [*tracer.freeze_axes("is read in windows", x, [dim]), None])


@rule("triu", "tril")
def cut_triangle(tracer: Tracer, result: Tensor, x: Tensor, *_: Any) -> None:
    tracer.put(result, tracer.freeze_axes("is cut to a triangle", x, (-2, -1)))


@rule("max_unpool2d", "max_unpool3d")
def unpool(tracer: Tracer, result: Tensor, x: Tensor, indices: Tensor, *_: Any) -> None:
    """Join the channels of a map with those of the pooling that it undoes."""
    pairs = list(zip(tracer.get(x), tracer.get(indices), strict=True))
    count = int(tracer.operation[-2])
    tracer.freeze("is unpooled", *(label for pair in pairs[-count:] for label in pair))
    tracer.put(result, [*(tracer.join(*pair) for pair in pairs[:-count]), *[None] * count])


@rule("gather")
def gather(tracer: Tracer, result: Tensor, x: Tensor, dim: int, indices: Tensor, *_: Any) -> None:
    """Join the dimensions of a tensor and of the indices; freeze the one along which they pick."""
    _join_but_one(tracer, result, dim, [x, indices])


@rule("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_reduce")
def scatter(
    tracer: Tracer, result: Tensor, x: Tensor, dim: int, indices: Tensor, values: Any, *_: Any
) -> None:
    """Join the dimensions of all tensors; freeze the one along which the indices write."""
    if result._is_view():
        tracer.freeze("is written into a part of another tensor", *tracer.get(x))
    with_indices = [indices] if indices.ndim == x.ndim else []
    tensors = [x, *with_indices, *([values] if isinstance(values, Tensor) else [])]
    _join_but_one(tracer, result, dim, tensors)


def _join_but_one(tracer: Tracer, result: Tensor, dim: int, tensors: Sequence[Tensor]) -> None:
    """Join all dimensions index by index but `dim`, and those whose sizes differ: they freeze."""
    labels: list[Label] = []
    for d, meeting in enumerate(zip(*map(tracer.get, tensors), strict=True)):
        alike = len({tensor.shape[d] for tensor in tensors}) == 1
        if alike and d != dim % result.ndim:
            labels.append(tracer.join(*meeting))
        else:
            tracer.freeze("is indexed", *meeting)
            labels.append(None)
    tracer.put(result, labels)
