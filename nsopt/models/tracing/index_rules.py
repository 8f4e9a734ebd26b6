"""Rules of operations that pick places by indices, or write them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nsopt.models.inputs import tensors_in
from nsopt.models.tracing.labels import Filled, Label
from nsopt.models.tracing.shape_rules import pointwise
from nsopt.models.tracing.tracer import Tracer, rule


@rule("roi_align", "roi_pool")
def crop_regions(tracer: Tracer, result: Any, x: Tensor, *_: Any) -> None:
    """Keep the channels of a map; freeze its places."""
    channels, places = tracer.get(x)[1], tracer.get(x)[2:]
    tracer.freeze(f"is cropped by {tracer.operation}", *places)
    for tensor in tensors_in(result):
        tracer.put(tensor, (None, channels, None, None))


@rule("grid_sampler_2d", "grid_sampler_3d")
def sample(tracer: Tracer, result: Tensor, x: Tensor, grid: Tensor, *_: Any) -> None:
    """Keep the channels of a map that is read at the places of a grid; freeze the places."""
    labels = tracer.get(x)
    tracer.freeze("holds places in a map", *labels[2:], *tracer.get(grid))
    tracer.put(result, [*labels[:2], *[None] * (result.ndim - 2)])


@rule("index_put")
def write_rows(
    tracer: Tracer, result: Tensor, x: Tensor, indices: Sequence[Any], values: Tensor, *_: Any
) -> None:
    """Join the channels of rows with those of the tensor into which they are written."""
    old, new = tracer.get(x), tracer.get(values)
    first = indices[0]
    if first is not None and first.shape == x.shape and values.numel() == 1:  # by a mask
        pointwise(tracer, result, x, first)
        return
    are_rows = len(indices) == 1 and first is not None and values.ndim == x.ndim and first.ndim == 1
    if not are_rows or x._is_view():
        tracer.freeze("is written by indices", *old, *new)
        tracer.put(result, [None if isinstance(label, Filled) else label for label in old])
        return
    tracer.freeze("is written by indices", old[0], new[0])
    pairs = zip(old[1:], new[1:], strict=True)
    tracer.put(result, [old[0], *(tracer.join(*pair) for pair in pairs)])


@rule("sort", "topk", "kthvalue")
def order(tracer: Tracer, result: Any, x: Tensor, *arguments: Any) -> None:
    """Freeze the dimension along which values are ordered; it is the last integer."""
    labels = list(tracer.get(x))
    if labels:
        dim = [a for a in arguments if isinstance(a, int) and not isinstance(a, bool)][-1]
        tracer.freeze("is sorted", labels.pop(dim))
        if tensors_in(result)[0].ndim == x.ndim:
            labels.insert(dim % x.ndim, None)
    for tensor in tensors_in(result):
        tracer.put(tensor, labels)


@rule("multinomial")
def draw(tracer: Tracer, result: Tensor, x: Tensor, *_: Any) -> None:
    """Mark the dimension as inexact that holds the probabilities."""
    *labels, drawn = tracer.get(x)
    tracer.mark_inexact(drawn)
    tracer.put(result, [*labels, None])


@rule("unfold")
def read_windows(tracer: Tracer, result: Tensor, x: Tensor, dim: int, *_: Any) -> None:
    """Freeze the dimension along which windows are read."""
    labels = list(tracer.get(x))
    tracer.freeze("is read in windows", labels[dim])
    labels[dim] = None
    tracer.put(result, [*labels, None])


@rule("triu", "tril")
def cut_triangle(tracer: Tracer, result: Tensor, x: Tensor, *_: Any) -> None:
    """Freeze the last two dimensions."""
    *labels, rows, columns = tracer.get(x)
    tracer.freeze("is cut to a triangle", rows, columns)
    tracer.put(result, [*labels, None, None])


@rule("max_unpool2d", "max_unpool3d")
def unpool(tracer: Tracer, result: Tensor, x: Tensor, places: Tensor, *_: Any) -> None:
    """Join the channels of a map with those of the pooling that it undoes."""
    pairs = list(zip(tracer.get(x), tracer.get(places), strict=True))
    count = int(tracer.operation[-2])
    tracer.freeze("is unpooled", *(label for pair in pairs[-count:] for label in pair))
    tracer.put(result, [*(tracer.join(*pair) for pair in pairs[:-count]), *[None] * count])


@rule("gather")
def gather(tracer: Tracer, result: Tensor, x: Tensor, dim: int, places: Tensor, *_: Any) -> None:
    """Join the dimensions of a tensor and of the indices; freeze the one along which they pick."""
    _join_but_one(tracer, result, dim, [x, places])


@rule("scatter", "scatter_add", "scatter_reduce", "index_add")
def scatter(
    tracer: Tracer, result: Tensor, x: Tensor, dim: int, places: Tensor, values: Any, *_: Any
) -> None:
    """Join the dimensions of all tensors; freeze the one along which the indices write."""
    if x._is_view():
        tracer.freeze("is written into a part of another tensor", *tracer.get(x))
    with_indices = [places] if places.ndim == x.ndim else []
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
