"""Rules of operations that move indices: views, permutations, reductions.

A rule takes the tracer, the result of the operation, and its arguments in the order of the ATen
schema. It labels the result. It joins the atoms that must be removed together, and freezes those
that cannot be removed.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsopt.inputs import tensors_in
from nsopt.tracing.labels import Filled, Label
from nsopt.tracing.rules import rule
from nsopt.tracing.tracer import Tracer
from nsopt.tracing.values import locate


@rule(
    "empty zeros ones full rand randn new_empty new_zeros new_ones new_full empty_strided "
    "new_empty_strided scalar_tensor randint"
)
def label_filled(tracer: Tracer, result: Any, *options: Any) -> None:
    """Label tensors that are filled with one value or with noise; that of a seed is none."""
    is_seeded = any(isinstance(option, torch.Generator) for option in options)
    for tensor in tensors_in(result):
        tracer.put(tensor, [None if is_seeded else Filled(size) for size in tensor.shape])


@rule(
    "clone detach alias _to_copy lift_fresh contiguous native_dropout fill zero bernoulli uniform "
    "exponential hardswish empty_like zeros_like ones_like full_like rand_like randn_like "
    "bucketize fake_quantize_per_tensor_affine_cachemask _nested_tensor_from_mask_left_aligned "
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams"
)
def keep_labels(tracer: Tracer, result: Any, x: Tensor, *_: Any) -> None:
    """Copy the labels of the input, as for clone, dropout and fill."""
    for tensor in tensors_in(result):
        kept = tensor.shape == x.shape
        tracer.put(tensor, tracer.get(x) if kept else (None,) * tensor.ndim)


@rule(
    "pointwise copy _prelu_kernel normal rrelu_with_noise log_sigmoid_forward polar complex",
    "_conj _neg_view renorm",
)
def pointwise(tracer: Tracer, result: Any, *arguments: Any) -> None:
    """Join the dimensions that broadcasting aligns, from the right."""
    tensors = [tensor for tensor in tensors_in(arguments) if tensor.ndim]
    results = tensors_in(result)
    labels: list[Label] = []
    for d in range(1, results[0].ndim + 1):
        meeting = [tracer.get(t)[-d] for t in tensors if t.ndim >= d and t.shape[-d] != 1]
        labels.insert(0, tracer.join(*meeting) if meeting else Filled(results[0].shape[-d]))
    for tensor in results:
        aligned = labels[len(labels) - tensor.ndim :]
        if tensor._is_view():
            _write_part(tracer, tensor, aligned)
        tracer.put(tensor, aligned)
    for tensor in tensors:
        label_by_met(tracer, tensor, labels)


def _write_part(tracer: Tracer, part: Tensor, labels: Sequence[Label]) -> None:
    """Record labels that are written into a part of another tensor.

    That tensor gets those of dimensions that are whole there, as in `states[:, step] = state`.
    """
    base = part._base
    assert base is not None
    whole = list(tracer.get(base))
    axes = {axis: d for d, axis in enumerate(locate(base).axes)}
    for label, before, axis in zip(labels, tracer.get(part), locate(part).axes, strict=True):
        if isinstance(before, np.ndarray) or not isinstance(label, np.ndarray):
            continue
        d = axes.get(axis)
        if d is None or whole[d] is None:
            tracer.freeze("is written into a part of another tensor", label)
        else:
            whole[d] = tracer.join(whole[d], label)
    tracer.put(base, whole)


def label_by_met(tracer: Tracer, tensor: Tensor, met: Sequence[Label]) -> None:
    """Label filled dimensions of a tensor by those `met`, aligned from the right.

    They have one size wherever they are used.
    """
    labels = tracer.get(tensor)
    if any(isinstance(label, Filled) for label in labels):
        aligned = zip(labels, met[len(met) - len(labels) :], strict=True)
        tracer.put(tensor, [new if isinstance(label, Filled) else label for label, new in aligned])


@rule("as_strided")
def as_strided(tracer: Tracer, result: Tensor, x: Tensor, *_: Any) -> None:
    """Freeze the dimensions that are read in another way, such as steps as windows of steps."""
    old, new = locate(x), locate(result)
    kept = {
        axis
        for axis in old.axes
        if old.axes.count(axis) == new.axes.count(axis) == 1
        and _is_apart(axis, old.axes)
        and _is_apart(axis, new.axes, new.first - old.first)
    }
    sources = [old.axes.index(axis) if axis in kept else None for axis in new.axes]
    if tracer.choose(lambda: sources) != sources:
        raise tracer.refuse_cut()
    labels = tracer.get(x)
    tracer.freeze("is read by as_strided", *(a for d, a in enumerate(labels) if d not in sources))
    tracer.put(result, [None if d is None else labels[d] for d in sources])


def _is_apart(axis: tuple[int, int], axes: Sequence[tuple[int, int]], start: int = 0) -> bool:
    """Return whether steps along other dimensions, and the start, move no index along `axis`.

    Dimensions are pairs of size and stride.
    """
    whole = axis[0] * axis[1]
    if not whole:
        return False
    small = [(size - 1) * step for size, step in axes if (size, step) != axis and step % whole]
    return axis[1] > sum(small) + start % whole


@rule("expand")
def expand(tracer: Tracer, result: Tensor, x: Tensor, *_: Any) -> None:
    """Label the expanded dimensions as filled."""
    labels, lead = tracer.get(x), result.ndim - x.ndim
    tracer.put(
        result,
        [
            Filled(size) if d < lead or x.shape[d - lead] != size else labels[d - lead]
            for d, size in enumerate(result.shape)
        ],
    )


@rule("permute")
def permute(tracer: Tracer, result: Tensor, x: Tensor, dims: Sequence[int]) -> None:
    tracer.put(result, [tracer.get(x)[d] for d in dims])


@rule("transpose", "t")
def transpose(tracer: Tracer, result: Tensor, x: Tensor, dim0: int = 0, dim1: int = 1) -> None:
    labels = list(tracer.get(x))
    if x.ndim > 1:
        labels[dim0], labels[dim1] = labels[dim1], labels[dim0]
    tracer.put(result, labels)


@rule("squeeze")
def squeeze(tracer: Tracer, result: Tensor, x: Tensor, dims: Any = None) -> None:
    before = tracer.shape  # `squeeze_` has changed that of x
    gone = {d for d in _count_from_front(len(before), dims) if before[d] == 1}
    tracer.put(result, [label for d, label in enumerate(tracer.get(x)) if d not in gone])


@rule("unsqueeze")
def unsqueeze(tracer: Tracer, result: Tensor, x: Tensor, dim: int) -> None:
    labels = list(tracer.get(x))
    labels.insert(dim % result.ndim, None)
    tracer.put(result, labels)


@rule("repeat")
def repeat(tracer: Tracer, result: Tensor, x: Tensor, times: Sequence[int]) -> None:
    """Repeat the labels, so that all copies of a channel are removed together."""
    lead = result.ndim - x.ndim
    labels: list[Label] = [None] * lead + list(tracer.get(x))
    sizes = [1] * lead + list(x.shape)
    for d, (label, size, count) in enumerate(zip(labels, sizes, times, strict=True)):
        if isinstance(label, np.ndarray):
            labels[d] = np.tile(label, count)
        elif isinstance(label, Filled) or size == 1:
            labels[d] = Filled(size * count)
    tracer.put(result, labels)


@rule("flip")
def flip(tracer: Tracer, result: Tensor, x: Tensor, dims: Any) -> None:
    labels = list(tracer.get(x))
    for d in _count_from_front(x.ndim, dims):
        label = labels[d]
        labels[d] = label[::-1] if isinstance(label, np.ndarray) else label
    tracer.put(result, labels)


@rule("roll")
def roll(tracer: Tracer, result: Tensor, x: Tensor, shifts: Any, dims: Any = ()) -> None:
    tracer.freeze_axes("is rolled", x, _count_from_front(x.ndim, dims or None))
    tracer.put(result, tracer.get(x))


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def transform(tracer: Tracer, result: Tensor, x: Tensor, dims: Any, *_: Any) -> None:
    along = _count_from_front(x.ndim, dims)
    tracer.put(result, tracer.freeze_axes("is transformed by Fourier", x, along))


@rule("view_as_complex")
def join_parts(tracer: Tracer, result: Tensor, x: Tensor) -> None:
    tracer.put(result, tracer.freeze_axes("holds real and imaginary parts", x, [-1])[:-1])


@rule("view_as_real")
def part(tracer: Tracer, result: Tensor, x: Tensor) -> None:
    tracer.put(result, [*tracer.get(x), None])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(tracer: Tracer, result: Tensor, x: Tensor, groups: int) -> None:
    """Join the channels that lie side by side after the shuffle, one of each group."""
    labels = list(tracer.get(x))
    channels = labels[1]
    if isinstance(channels, np.ndarray):
        labels[1] = np.repeat(tracer.join_rows(channels.reshape(groups, -1)), groups)
    tracer.put(result, labels)


@rule("pixel_shuffle", "col2im", "pixel_unshuffle", "im2col")
def exchange_pixels(tracer: Tracer, result: Tensor, x: Tensor, *_: Any) -> None:
    """Join channels that become the pixels of one; repeat the label of one whose pixels become
    channels."""
    axis = max(x.ndim, result.ndim) - 3
    sides = range(axis + 1, x.ndim)
    labels = tracer.freeze_axes("holds places of an image", x, sides)[: axis + 1]
    channels, count = labels[axis], result.shape[axis]
    if isinstance(channels, Filled):
        labels[axis] = Filled(count)
    elif isinstance(channels, np.ndarray) and count < len(channels):
        labels[axis] = tracer.join_rows(channels.reshape(count, -1).T)
    elif isinstance(channels, np.ndarray):
        labels[axis] = np.repeat(channels, count // len(channels))
    tracer.put(result, [*labels, *[None] * (result.ndim - axis - 1)])


@rule(
    "mean sum nansum amax amin aminmax var var_mean std std_mean prod logsumexp max min any all "
    "argmax argmin median nanmedian mode count_nonzero _is_all_true _is_any_true"
)
def reduce(tracer: Tracer, result: Any, x: Tensor, dims: Any = None, *_: Any) -> None:
    """Remove the labels of reduced dimensions, or set them to None where the dimensions stay.

    Indices into them freeze them once they are read: of `max`, code often uses the values alone.
    """
    gone = set(_count_from_front(x.ndim, dims if isinstance(dims, int | list | tuple) else None))
    labels = tracer.get(x)
    by_index = partial(tracer.freeze, "is read by its indices", *(labels[d] for d in gone))
    if tracer.operation in {"argmax", "argmin"}:
        by_index()
    tracer.mark_inexact(*(labels[d] for d in gone))  # even in a sum: of zero, sigmoid makes 0.5
    left = [label for d, label in enumerate(labels) if d not in gone]
    for i, tensor in enumerate(tensors_in(result)):
        if tensor.ndim == x.ndim:
            tracer.put(tensor, [None if d in gone else label for d, label in enumerate(labels)])
        else:
            tracer.put(tensor, left[: tensor.ndim])
        if i and tensor.dtype == torch.int64:
            tracer.when_read(tensor, by_index)


@rule("linalg_vector_norm", "norm")
def norm(tracer: Tracer, result: Tensor, x: Tensor, order: Any, dims: Any = None, *_: Any) -> None:
    reduce(tracer, result, x, dims)


@rule("mse_loss smooth_l1_loss huber_loss binary_cross_entropy")
def compare(tracer: Tracer, result: Tensor, x: Tensor, target: Tensor, *_: Any) -> None:
    """Join what a loss compares; the dimensions go where it reduces them."""
    if result.ndim:
        pointwise(tracer, result, x, target)
    else:
        met = zip(tracer.get(x), tracer.get(target), strict=True)
        tracer.mark_inexact(*(tracer.join(*labels) for labels in met))


@rule(
    "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
    "max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d avg_pool1d upsample_nearest2d "
    "upsample_bilinear2d upsample_bicubic2d upsample_nearest1d upsample_linear1d "
    "upsample_trilinear3d upsample_nearest3d adaptive_max_pool3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d _upsample_nearest_exact3d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
    "replication_pad2d replication_pad3d fractional_max_pool2d fractional_max_pool3d"
)
def resize_sides(tracer: Tracer, result: Any, x: Tensor, *_: Any) -> None:
    """Keep the labels of examples and channels in pooling and resizing; freeze the others."""
    count = next(n for n in (1, 2, 3) if f"{n}d" in tracer.operation)
    labels = tracer.freeze_axes(f"is resized by {tracer.operation}", x, range(-count, 0))
    tracer.put_all(result, labels)


def _count_from_front(count: int, dims: Any) -> Iterable[int]:
    """Return which of `count` dimensions `dims` are; None or an empty list means all."""
    if count == 0:
        return []
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return range(count)
    return [d % count for d in ([dims] if isinstance(dims, int) else dims)]
