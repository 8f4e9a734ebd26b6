"""Rules of operations that combine channels: products, normalisations, attention."""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch

from nsopt.inputs import tensors_in
from nsopt.tracing.labels import Atoms, Filled, Label, Labels
from nsopt.tracing.rules import rule
from nsopt.tracing.shape_rules import label_by_met, pointwise
from nsopt.tracing.tracer import Tracer


@rule("convolution")
def convolution(
    tracer: Tracer, result: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any
) -> None:
    """Join the channels of the input with those that the weight reads.

    A kernel of one channel may slide over what others call channels, as in ECA: it is inexact.
    """
    stride, padding, _dilation, transposed, _output_padding, groups = options
    labels, weight_labels = tracer.get(x), tracer.get(weight)
    axis = 1 if transposed else 0
    outputs, inputs = weight_labels[axis], weight_labels[1 - axis]
    tracer.freeze("is a size of the kernel", *weight_labels[2:])
    rest = labels[2:]
    if weight.ndim == 3 and weight.shape[:2] == (1, 1) and result.shape == x.shape:
        tracer.mark_inexact(*rest)
    elif transposed or any(padding) or {*weight.shape[2:], *stride} != {1}:
        tracer.freeze("holds places of a convolution", *rest)
        rest = (None,) * len(rest)
    if groups == 1:
        if x.shape[1] > 1:
            inputs = tracer.join(labels[1], inputs)
        made = outputs
        tracer.note_maker(made)
    else:
        made = _label_groups(tracer, weight, labels[1], groups, transposed)
        if isinstance(weight_labels[0], Filled):  # one filter, repeated for each channel
            outputs, inputs = (weight_labels[1], made) if transposed else (made, weight_labels[1])
    if isinstance(x, FakeTensor) and isinstance(weight, FakeTensor):
        tracer.mark_inexact(inputs)  # as in `matrix_product`
    if bias is not None and result.shape[1] > 1:
        tracer.join(tracer.get(bias)[0], made)
    sized = (outputs, weight.shape[axis]), (inputs, weight.shape[1 - axis])
    sides = zip(rest, (x if transposed else result).shape[2:], strict=True)
    tracer.multiply(math.prod(weight.shape[2:]), (labels[0], x.shape[0]), *sides, *sized)
    tracer.put(result, [labels[0], made, *rest])


def _label_groups(
    tracer: Tracer, weight: Tensor, inputs: Label, groups: int, transposed: bool
) -> Label:
    """Join the atoms of a grouped convolution; return the label of its output.

    Pruning removes either whole groups, or the same channels from every group. The rule chooses
    what allows more widths.
    """
    weight_labels = tracer.get(weight)
    first = weight_labels[0]
    if isinstance(first, Filled) and weight.shape[1] == 1 and weight.shape[0] == groups:
        return inputs
    if not isinstance(inputs, np.ndarray) or not isinstance(first, np.ndarray):
        tracer.freeze("must equal a fixed size in a grouped convolution", inputs, *weight_labels)
        return None
    if transposed and tracer.choose(lambda: len(first) > groups):
        # The weight has the inputs of all groups, and the outputs of one.
        tracer.join(*(tracer.join_rows(label.reshape(groups, -1)) for label in (inputs, first)))
        outputs = weight_labels[1]
        return np.tile(outputs, groups) if isinstance(outputs, np.ndarray) else None
    if transposed and weight.shape[1] > 1:
        tracer.freeze("belongs to a transposed grouped convolution", inputs, *weight_labels)
        return None
    if transposed:
        return tracer.join(inputs, first)
    per_group = inputs.reshape(groups, -1)
    made = first.reshape(groups, -1)
    if tracer.choose(lambda: _goes_whole(tracer, per_group)):
        tracer.trace.group_sizes[tracer.where] = made.shape[1]
        lead = per_group[:, :1]
        for rows in (per_group[:, 1:], made):
            tracer.join_rows(np.concatenate([lead, rows], axis=1).T)
        tracer.freeze("is an input of each group of a convolution", weight_labels[1])
    else:
        tracer.join(tracer.join_rows(per_group), weight_labels[1])
        tracer.join_rows(made)
    return first


def _goes_whole(tracer: Tracer, rows: Atoms) -> bool:
    """Return whether pruning removes whole groups, the rows of a matrix of atoms."""
    groups, size = rows.shape
    if size == 1:
        return True
    tracer.trace.grouped.append((tracer.where, rows.ravel()))
    return bool(size <= groups) != (tracer.where in tracer.trace.reading.turned)


@rule("mm", "bmm")
def matrix_product(tracer: Tracer, result: Tensor, a: Tensor, b: Tensor, *_: Any) -> None:
    """Join the dimensions over which the product sums.

    It is inexact between two activations: a function before the product may make zero another
    number, and code around it may divide by its size. Parameters and their views are no fakes.
    """
    if a.dtype != b.dtype:  # fake tensors multiply all the same
        raise RuntimeError(f"they should be the same, but are {a.dtype} and {b.dtype}")
    left, right = tracer.get(a), tracer.get(b)
    inner = tracer.join(left[-1], right[-2]) if a.shape[-1] > 1 else None
    if isinstance(a, FakeTensor) and isinstance(b, FakeTensor):
        tracer.mark_inexact(inner)
    batch = [tracer.join(p, q) for p, q in zip(left[:-2], right[:-2], strict=True)]
    rows, columns = (left[-2], a.shape[-2]), (right[-1], b.shape[-1])
    if a.layout == torch.strided:
        tracer.multiply(1, *zip(batch, a.shape, strict=False), rows, (inner, a.shape[-1]), columns)
    else:
        tracer.multiply(_count_nonzeros(tracer, a), columns)
    for matrix, inside, made in ((a, left[-1], left[-2]), (b, right[-2], right[-1])):
        # Only a parameter has labels in both dimensions.
        if isinstance(inside, np.ndarray) or min(matrix.shape[-2:]) == 1:
            tracer.note_maker(made)
    tracer.put(result, [*batch, left[-2], right[-1]])


def _count_nonzeros(tracer: Tracer, matrix: Tensor) -> int:
    """Return how many elements a sparse matrix stores; all, if it was calculated from another."""
    stored = tracer.sparse.get(id(matrix)) if isinstance(matrix, FakeTensor) else matrix
    if stored is None:
        return matrix.numel()
    with no_dispatch():  # others than COO may store blocks
        return stored._nnz() if stored.is_sparse else stored.values().numel()


@rule("addmm", "baddbmm", "_sparse_addmm")
def sum_and_product(
    tracer: Tracer, result: Tensor, bias: Tensor, a: Tensor, b: Tensor, *_: Any
) -> None:
    matrix_product(tracer, result, a, b)
    labels = tracer.get(result)
    pointwise(tracer, result, bias, result)
    tracer.put(result, labels)


@rule("mv", "dot", "vdot")
def vector_product(tracer: Tracer, result: Tensor, a: Tensor, b: Tensor) -> None:
    """Label the product of a matrix or vector with a vector.

    That of a weight, which has labels in both dimensions, is not counted, as in a spectral norm.
    """
    labels, inner = tracer.get(a), tracer.get(a)[-1]
    if b.shape[0] > 1:
        inner = tracer.join(inner, tracer.get(b)[0])
    if isinstance(a, FakeTensor) and isinstance(b, FakeTensor):
        tracer.mark_inexact(inner)
    if a.ndim > 1 and isinstance(a, FakeTensor) and not isinstance(labels[0], np.ndarray):
        tracer.multiply(a.shape[0], (inner, a.shape[1]))
    tracer.put(result, labels[:-1])


@rule("_trilinear")
def trilinear(
    tracer: Tracer, result: Tensor, x: Tensor, weight: Tensor, y: Tensor, *_: Any
) -> None:
    """Join the features of two inputs with those that nn.Bilinear reads."""
    made, first, second = tracer.get(weight)
    read = tracer.join(tracer.get(x)[1], first), tracer.join(tracer.get(y)[1], second)
    tracer.note_maker(made)
    if isinstance(weight, FakeTensor):  # as in `matrix_product`
        tracer.mark_inexact(*read)
    tracer.multiply(x.shape[0], *zip((made, *read), weight.shape, strict=True))
    tracer.put(result, [tracer.get(x)[0], made])


@rule("_weight_norm_interface")
def weight_norm(tracer: Tracer, result: Any, v: Tensor, g: Tensor, dim: int = 0) -> None:
    """Join the scales `g` with dimension `dim` of `v`; mark all dimensions of `v` as inexact."""
    labels = list(tracer.get(v))
    if v.shape[dim] > 1:
        labels[dim] = tracer.join(labels[dim], tracer.get(g)[dim])
    tracer.mark_inexact(*labels)
    weight, norms = result
    tracer.put(weight, labels)
    tracer.put(norms, tracer.get(g))


@rule("linear")
def linear(
    tracer: Tracer, result: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> None:
    """Join the features of the input with the columns of the weight."""
    labels, weight_labels = tracer.get(x), tracer.get(weight)
    if x.shape[-1] > 1:
        tracer.join(labels[-1], weight_labels[1])
    if bias is not None and weight.shape[0] > 1:
        tracer.join(weight_labels[0], tracer.get(bias)[0])
    tracer.note_maker(weight_labels[0])
    sized = zip((*labels[:-1], *weight_labels), (*x.shape[:-1], *weight.shape), strict=True)
    tracer.multiply(1, *sized)
    tracer.put(result, [*labels[:-1], weight_labels[0]])


@rule(
    "scaled_dot_product_attention _scaled_dot_product_flash_attention "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention"
)
def attention(tracer: Tracer, result: Any, q: Tensor, k: Tensor, v: Tensor, *options: Any) -> None:
    """Join queries with keys, and keys with values.

    The size of a query is inexact, because it also scales the scores; so is the number of keys,
    over which the softmax runs. Several heads of queries may share one head of keys and values.
    """
    queries, keys, values = tracer.get(q), _repeat_heads(tracer, k, q), _repeat_heads(tracer, v, q)
    inner, read = tracer.join(queries[-1], keys[-1]), tracer.join(keys[-2], values[-2])
    lead = [tracer.join(*m) for m in zip(queries[:-2], keys[:-2], values[:-2], strict=True)]
    scores = [*lead, queries[-2], read]
    for mask in tensors_in(options):
        for d in range(1, min(mask.ndim, q.ndim) + 1):
            if mask.shape[-d] > 1:
                scores[-d] = tracer.join(scores[-d], tracer.get(mask)[-d])
        label_by_met(tracer, mask, scores)
    tracer.mark_inexact(inner, scores[-1])
    sized = list(zip(scores, [*q.shape[:-1], k.shape[-2]], strict=True))
    tracer.multiply(1, *sized, (inner, q.shape[-1]))
    tracer.multiply(1, *sized, (values[-1], v.shape[-1]))
    tracer.put(tensors_in(result)[0], [*scores[:-1], values[-1]])


def _repeat_heads(tracer: Tracer, keys: Tensor, queries: Tensor) -> Labels:
    """Return the labels of keys or values, with as many heads as there are of queries."""
    labels = list(tracer.get(keys))
    if keys.ndim > 3 and isinstance(heads := labels[-3], np.ndarray):
        labels[-3] = np.repeat(heads, queries.shape[-3] // len(heads))
    return tuple(labels)


@rule("_softmax", "_log_softmax", "_safe_softmax")
def softmax(tracer: Tracer, result: Tensor, x: Tensor, dim: int, *_: Any) -> None:
    """Mark the dimension as inexact: zeros count in an exponential."""
    tracer.mark_inexact(tracer.get(x)[dim])
    tracer.put(result, tracer.get(x))


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin")
def accumulate(tracer: Tracer, result: Any, x: Tensor, dim: int, *_: Any) -> None:
    """Mark the dimension as inexact, or fix it in a filled tensor, whose values then count."""
    labels = list(tracer.get(x))
    along = labels[dim]
    tracer.mark_inexact(along)
    if isinstance(along, Filled):
        labels[dim] = None
    for tensor in tensors_in(result):
        tracer.put(tensor, labels)
        if tensor.dtype == torch.int64 != x.dtype:
            tracer.when_read(tensor, partial(tracer.freeze, "is read by its indices", along))


@rule("_cdist_forward", "_euclidean_dist")
def distances(tracer: Tracer, result: Tensor, a: Tensor, b: Tensor, *_: Any) -> None:
    """Join the dimensions of two sets of points, as in a product of matrices."""
    left, right = tracer.get(a), tracer.get(b)
    tracer.mark_inexact(tracer.join(left[-1], right[-1]))
    lead = left[:-2] if a.ndim == result.ndim else [None] * (result.ndim - 2)
    tracer.put(result, [*lead, left[-2], right[-2]])


@rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "cudnn_batch_norm"
)
def batch_norm(tracer: Tracer, result: Any, x: Tensor, *parameters: Any) -> None:
    """Join the channels with the parameters and running statistics of a batch norm."""
    labels = tracer.get(x)
    parameter_labels = [tracer.get(p)[0] for p in parameters if isinstance(p, Tensor)]
    channels = tracer.join(labels[1], *parameter_labels) if x.shape[1] > 1 else labels[1]
    tracer.note_norm(channels, _get_scale(tracer, parameters[0], -1))
    tracer.mark_inexact(labels[0], *labels[2:])  # weight standardisation averages over them
    tracer.put(tensors_in(result)[0], [labels[0], channels, *labels[2:]])


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(
    tracer: Tracer, result: Any, x: Tensor, shape: Any, weight: Any, bias: Any = None, *_: Any
) -> None:
    """Join the normalised dimensions with the parameters, and mark them as inexact."""
    labels = list(tracer.get(x))
    parameters = [p for p in (weight, bias) if isinstance(p, Tensor)]
    for d in range(-len(shape), 0):
        if x.shape[d] > 1:
            labels[d] = tracer.join(labels[d], *(tracer.get(p)[d] for p in parameters))
            tracer.mark_inexact(labels[d])
            tracer.note_norm(labels[d], _get_scale(tracer, weight, d))
    tracer.put(tensors_in(result)[0], labels)


@rule("native_group_norm")
def group_norm(tracer: Tracer, result: Any, x: Tensor, weight: Any, bias: Any, *sizes: Any) -> None:
    """Join whole groups, or the same channels of every group, as in a grouped convolution."""
    _examples, _channels, _sides, groups, _eps = sizes
    labels = list(tracer.get(x))
    tracer.mark_inexact(*labels[2:])
    parameter_labels = [tracer.get(p)[0] for p in (weight, bias) if isinstance(p, Tensor)]
    labels[1] = tracer.join(labels[1], *parameter_labels)
    label = labels[1]
    tracer.note_norm(label, _get_scale(tracer, weight, -1))
    if isinstance(label, np.ndarray):
        rows = label.reshape(groups, -1)
        if tracer.choose(lambda: groups > 1 and _goes_whole(tracer, rows)):
            tracer.join_rows(rows.T)
            tracer.trace.group_sizes[tracer.where] = rows.shape[1]
        else:
            tracer.join_rows(rows)
            tracer.mark_inexact(label)
    tracer.put(tensors_in(result)[0], labels)


def _get_scale(tracer: Tracer, weight: Any, axis: int) -> Label:
    """Return the label of a norm's weight; None without a weight."""
    return tracer.get(weight)[axis] if isinstance(weight, Tensor) else None


@rule("fake_quantize_per_channel_affine_cachemask", "_fused_moving_avg_obs_fq_helper")
def quantise(tracer: Tracer, result: Any, x: Tensor, *options: Any) -> None:
    """Join channels with the scales and statistics of a module that trains for 8 bits; before a
    first pass these have no or one element."""
    if tracer.operation.startswith("_fused"):
        _observes, _rounds, *scales, _rate, _least, _most, axis, by_channel, _even = options
        scales = scales if by_channel else []
    else:
        *scales, axis, _least, _most = options
    labels = list(tracer.get(x))
    for scale in scales:
        if scale.shape[0] == x.shape[axis] > 1:
            labels[axis] = tracer.join(labels[axis], tracer.get(scale)[0])
    tracer.put_all(result, labels)


@rule("embedding", "_embedding_bag", "_embedding_bag_forward_only")
def embedding(tracer: Tracer, result: Any, weight: Tensor, index: Tensor, *_: Any) -> None:
    """Freeze the number of rows; the columns become the channels of each result, or of a bag's."""
    rows, columns = tracer.get(weight)
    tracer.freeze("is the number of rows of an embedding", rows)
    tracer.note_maker(columns)
    lead = tracer.get(index) if isinstance(result, Tensor) else [None]
    tracer.put(tensors_in(result)[0], [*lead, columns])
