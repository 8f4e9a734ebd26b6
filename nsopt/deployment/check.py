"""Check that an exported file computes the same as the network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from nsopt.data.images import ImageSet
from nsopt.deployment.export import Predict, list_batches, load_exported, make_whole
from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import NsoptError, short_reason
from nsopt.models.architecture import Architecture
from nsopt.models.inputs import call_network, count_examples, resize_batch, tensors_in
from nsopt.models.tracing.originals import copy_model
from nsopt.tasks.evaluation import count_right
from nsopt.tasks.task import Score, ScoreEvaluation

_BATCH = 100
_LOGITS_APART = 1e-3  # of the largest output
_MASKED = 1e4  # numbers of a mask are as large
_POINTS_APART = 1.0  # trainings may have evaluated in bfloat16,
_IMAGES_APART = 2  # in which a few images turn


@dataclass(frozen=True)
class ExportCheck:
    """The check of an exported file.

    Attributes:
        exported, stored: test accuracy in percent with the file, and in the study.
        difference: of the logits from PyTorch's, relative to the largest logit.
    """

    exported: float
    stored: float
    difference: float


def measure_accuracy(path: Path, test: ImageSet) -> float:
    """Return the percentage of test images, uint8, that an ONNX file gets right."""
    exported = load_exported(path, "onnx")
    parts = _split_batches(test)
    right = sum(int(count_right(exported(pixels), labels)) for pixels, labels in parts)
    return 100 * right / len(test)


@torch.no_grad()
def measure_score(path: Path, network: nn.Module, inputs: Any, score: Score) -> float:
    """Return what a function that scores networks says of an ONNX file of `network`.

    The function gets a copy of the network that computes its outputs with the file.

    Args:
        inputs: a batch, for which the network returns outputs of the usual structure.

    Raises:
        NsoptError: if the function does not call the network, or if the file does not run.
    """
    exported, model = load_exported(path, "onnx"), copy_model(network).cpu().eval()
    leaves, structure = tree_flatten(call_network(model, inputs))
    calls = 0

    def forward(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        computed = iter(tensors_in(_run_exported(exported, keywords or args)))
        return tree_unflatten(
            [next(computed) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
        )

    vars(model)["forward"] = forward
    evaluation = ScoreEvaluation(score)
    evaluation.advance(model)
    if not calls:
        raise NsoptError(
            "the score does not call the network as a whole, model(inputs), which is what an ONNX "
            "file computes"
        )
    return evaluation.score


def check_export(network: KeptNetwork, path: Path, form: str, test: ImageSet) -> ExportCheck:
    """Load an exported file and compare it with `network` on test images, uint8.

    Raises NsoptError if its logits differ, or its accuracy is not the stored one.
    """
    check = compare_export(network, path, form, test)
    most = _POINTS_APART + 100 * _IMAGES_APART / len(test)
    if abs(check.exported - check.stored) > most:
        raise NsoptError(
            f"the exported network reaches {check.exported:.2f} % on the test images, but "
            f"{check.stored:.2f} % in the study: give the images of the study as data="
        )
    return check


@torch.no_grad()
def compare_export(network: KeptNetwork, path: Path, form: str, test: ImageSet) -> ExportCheck:
    """Return what `check_export` does, whatever the accuracy; raise NsoptError for other logits."""
    exported = load_exported(path, form, network.arch)
    original = make_whole(network)
    right, pairs = 0, list[tuple[Tensor, Tensor]]()
    for pixels, labels in _split_batches(test):
        pairs.append((_run_exported(exported, pixels), original(pixels)))
        right += int(count_right(pairs[-1][0], labels))
    difference = _check_close(pairs)
    return ExportCheck(100 * right / len(test), network.test_accuracy, difference)


@torch.no_grad()
def compare_outputs(
    network: KeptNetwork, path: Path, form: str, arch: Architecture, inputs: Any
) -> float:
    """Return how far the outputs of an exported file are from the network's.

    They are compared on a batch, on one example of it, on more, and on other sizes of a task that
    the file takes. The largest difference counts, relative to the largest number of the output.
    Raises NsoptError if it is too large.

    Args:
        inputs: see `export`.
    """
    exported, original = load_exported(path, form, arch), make_whole(network)
    inputs, *others = list_batches(inputs)
    runs, count = [], count_examples(inputs)
    for batch in (*others, *(resize_batch(inputs, size) for size in (1, count + 3, count))):
        try:
            actual = tensors_in(_run_exported(exported, batch))
        except NsoptError:
            if any(batch is other for other in others):  # the file takes one size
                continue
            raise
        expected = tensors_in(call_network(original, batch))
        runs.append([*zip(actual, expected, strict=False)])
    again = tensors_in(call_network(original, batch))
    outputs = [*zip(*runs, strict=True)]
    compared = [
        output
        for output, repeated in zip(outputs, again, strict=False)
        if _is_comparable(output[-1][1], repeated)
    ]
    return max(
        _check_close([(actual.double(), expected.double()) for actual, expected in output])
        for output in compared or outputs[:1]
    )


def _run_exported(exported: Predict, inputs: Any) -> Any:
    """Return what a file computes. Raises NsoptError if it does not run on these inputs."""
    try:
        return exported(inputs)
    except Exception as error:
        examples = f"{count_examples(inputs)} examples ({short_reason(error)})"
        raise NsoptError(
            f"the exported network does not run on {examples}: "
            "export it in another format=, or let its code not ask how many examples there are"
        ) from error


def _is_comparable(output: Tensor, again: Tensor) -> bool:
    """Return whether an output has floating numbers, and the same ones if a network runs again."""
    is_floating = output.is_floating_point() and output.numel() > 0
    return is_floating and torch.equal(output.nan_to_num(), again.nan_to_num())


def _check_close(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the largest difference of outputs of a file and of the network.

    It is relative to the largest number, without those of a mask, such as -1e9 or -inf: these are
    compared with themselves. Raises NsoptError if it is too large, or NaN.
    """
    actual, expected = (torch.cat([t.flatten() for t in side]) for side in zip(*pairs, strict=True))
    sizes = expected.abs()[expected.isfinite() & (expected != 0)]
    large = sizes >= _MASKED
    if large.all() or len(sizes[large].unique()) > 1:  # no mask, which repeats one number
        large = torch.zeros_like(large)
    scale = sizes[~large].max() if len(sizes) else 1.0
    apart = (actual - expected).abs() / expected.abs().clamp(min=float(scale))
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    difference = float(apart.where(~same, 0.0).max())
    if not difference <= _LOGITS_APART:
        raise NsoptError(
            f"the exported network is wrong: its outputs differ from PyTorch's by "
            f"{difference:.1e}; export it in another format="
        )
    return difference


def _split_batches(images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images from 0 to 1, and their labels."""
    return zip(images.scaled_parts(_BATCH), images.labels.split(_BATCH), strict=True)
