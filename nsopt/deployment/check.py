"""Check that an exported file computes the same as the network."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from nsopt.data.images import ImageSet
from nsopt.deployment.closeness import check_close, compare_runs, run_exported
from nsopt.deployment.export import load_exported, make_whole
from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import NsoptError, short_reason
from nsopt.models.architecture import Architecture
from nsopt.models.inputs import (
    call_network,
    count_examples,
    lists_examples,
    resize_batch,
    tensors_in,
)
from nsopt.models.tracing.originals import copy_model
from nsopt.tasks.classification import count_right
from nsopt.tasks.task import Score, ScoreEvaluation

_BATCH = 100
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
    arguments = inspect.signature(model.forward)
    leaves, structure = tree_flatten(call_network(model, inputs))
    calls = 0

    def forward(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        is_named = keywords or isinstance(inputs, Mapping)
        called = arguments.bind(*args, **keywords).arguments if is_named else args
        try:
            computed = tensors_in(exported(called))
        except Exception as error:
            raise NsoptError(
                f"the ONNX file does not run as the score calls the network "
                f"({short_reason(error)}): give inputs of the kinds and sizes of the task's batches"
            ) from error
        if len(computed) != sum(isinstance(leaf, Tensor) for leaf in leaves):
            raise NsoptError("the ONNX file returns other outputs than the network: leave int8 out")
        rest = iter(computed)
        return tree_unflatten(
            [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
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
        pairs.append((run_exported(exported, pixels), original(pixels)))
        right += int(count_right(pairs[-1][0], labels))
    difference = check_close(pairs)
    return ExportCheck(100 * right / len(test), network.test_accuracy, difference)


def compare_outputs(
    network: KeptNetwork, path: Path, form: str, arch: Architecture, inputs: Any
) -> float:
    """Return how far the outputs of an exported file are from the network's; see `compare_runs`.

    Args:
        inputs: a batch. It is compared, and one example of it, and more, unless a list has an item
            for each.
    """
    count = count_examples(inputs)
    sizes = (count,) if lists_examples(inputs) else (1, count + 3, count)
    batches = [resize_batch(inputs, size) for size in sizes]
    return compare_runs(load_exported(path, form, arch), make_whole(network), batches)


def _split_batches(images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images from 0 to 1, and their labels."""
    return zip(images.scaled_parts(_BATCH), images.labels.split(_BATCH), strict=True)
