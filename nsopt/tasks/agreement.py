"""How closely networks follow a trained one: by the distance of their outputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from nsopt.errors import NsoptError
from nsopt.inputs import find_outputs

_CERTAIN = 1.64  # standard errors of a difference: 5 % of chance differences are larger
_ROUNDING = 1e-10  # of the mean square at a position
_FAR = 100.0  # a distance that is as bad as an infinite one


@dataclass(frozen=True, eq=False)
class Agreement:
    """A network compared with the trained one, on N examples.

    Attributes:
        distances: of their outputs for each example, float32 (N,). Infinite if the outputs are not
            numbers.
    """

    distances: Tensor

    @property
    def percentage(self) -> float:
        """`100 exp(-d)`, where d is the mean distance: 100 for equal outputs."""
        return 100 * math.exp(-float(self.distances.mean()))


def is_closer(agreement: Agreement, other: Agreement) -> bool:
    """Return whether the first network is closer to the trained one, beyond the error of examples.

    A single example has no known error: False.
    """
    gain = other.distances.clamp(max=_FAR) - agreement.distances.clamp(max=_FAR)
    return bool(gain.mean() > _CERTAIN * gain.std(correction=0) / math.sqrt(len(gain) - 1))


def class_divergence(outputs: Tensor, outputs_of_teacher: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of class probabilities for each image, (N,).

    It is the sum of `p (log p - log q)` over the classes, where p are the probabilities of the
    trained network and q those of the network. It uses all probabilities of an image, not only
    whether the largest one is right, and ranks networks of VGG11 better than accuracy does, others
    about as well (`benchmarks/README.md`).

    Args:
        outputs: logits (N, classes).
        outputs_of_teacher: of the trained network, likewise.
    """
    q, p = mask_impossible(outputs.log_softmax(1), outputs_of_teacher.log_softmax(1))
    return kl_div(q, p, reduction="none", log_target=True).sum(1)


def mask_impossible(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Return logarithms of probabilities with 0 in both where p is -inf: p log p is 0 for p = 0."""
    known = p != -math.inf  # NaN stays
    return q.where(known, 0.0), p.where(known, 0.0)


def relative_distance(
    outputs: Any, outputs_of_teacher: Any, variances: Sequence[Tensor] | None = None
) -> Tensor:
    """Return the squared difference of all floating outputs, relative to their variance, (N,).

    Numbers that are infinite in the trained network, such as masked logits, do not count.

    Args:
        outputs: tensors, or a nest or dataclass of tensors, whose first dimension is the batch of
            N examples.
        outputs_of_teacher: of the trained network, likewise.
        variances: of its outputs (`measure_variances`); by default those of this batch.

    Raises:
        NsoptError: if no output has finite floating numbers for each example.
    """
    student, target = _floating(outputs), _floating(outputs_of_teacher)
    known = [theirs.isfinite() for theirs in target]
    if not any(mask.any() for mask in known):
        raise NsoptError(
            "the outputs have no finite floating numbers to compare: give the task a distance"
        )
    scales = variances or measure_variances([outputs_of_teacher])
    squares = [
        _average((mine.where(mask, 0.0) - theirs.where(mask, 0.0)).square(), mask)
        / scale.clamp(min=torch.finfo(theirs.dtype).tiny)
        for mine, theirs, mask, scale in zip(student, target, known, scales, strict=True)
    ]
    counts = [mask.reshape(len(mask), -1).any(1) for mask in known]
    return _average(torch.stack(squares, 1), torch.stack(counts, 1))


def measure_variances(batches: Sequence[Any]) -> list[Tensor]:
    """Return the variance of the finite numbers of each floating output, over several batches.

    It is around the mean of all examples at each position, so that positions with different means,
    such as degrees and metres, do not count as variance. Where examples have different shapes, or
    all are alike but for rounding, it is around the mean of all numbers.
    """
    return [_measure_variance(parts) for parts in zip(*map(_floating, batches), strict=True)]


def differ(batches: Sequence[Any]) -> bool:
    """Return whether any finite floating output differs between examples, beyond rounding."""
    for parts in zip(*map(_floating, batches), strict=True):
        first = parts[0][:1]
        for part in parts:
            if part.shape[1:] != first.shape[1:] or not torch.allclose(
                part, first.expand_as(part), rtol=_ROUNDING**0.5, atol=0, equal_nan=True
            ):
                return True
    return False


def _measure_variance(parts: Sequence[Tensor]) -> Tensor:
    numbers = torch.cat([part[part.isfinite()] for part in parts])
    if not len(numbers):
        return numbers.new_ones(())
    around_all = numbers.var(correction=0)
    if len({part.shape[1:] for part in parts}) > 1:
        return around_all
    rows = torch.cat([part.reshape(len(part), -1) for part in parts])
    known = rows.isfinite()
    rows, count = rows.where(known, 0.0), known.sum(0)
    mean = rows.sum(0) / count.clamp(min=1)
    squares = (rows - mean).where(known, 0.0).square().sum(0)
    around_places = squares.sum() / (count - 1).clamp(min=0).sum()
    differs = (squares > _ROUNDING * rows.square().sum(0)).any()
    return around_places.where(differs, around_all)


def _average(numbers: Tensor, known: Tensor) -> Tensor:
    """Return the mean of each example over its known numbers, the others being 0; 0 for none."""
    count = known.reshape(len(known), -1).sum(1)
    return numbers.reshape(len(numbers), -1).sum(1) / count.clamp(min=1)


def _floating(outputs: Any) -> list[Tensor]:
    """Return the floating tensors with as many examples as the first of them."""
    tensors = [
        leaf.to(torch.promote_types(leaf.dtype, torch.float32))
        for leaf in find_outputs(outputs)[0]
        if leaf.is_floating_point() and leaf.ndim and leaf.numel()
    ]
    return [tensor for tensor in tensors if len(tensor) == len(tensors[0])]
