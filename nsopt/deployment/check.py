"""Check that an exported file computes the same as the network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nsopt.data.images import PIXEL_RANGE, ImageSet
from nsopt.deployment.export import (
    check_close,
    compare_runs,
    load_exported,
    make_whole,
    run_exported,
)
from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import NsoptError
from nsopt.inputs import count_examples, lists_examples, resize_batch
from nsopt.models.architecture import Architecture
from nsopt.tasks.classification import count_right
from nsopt.tracing.states import borrow

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
    right, pairs = 0, list[tuple[Tensor, Tensor]]()
    with borrow(make_whole(network)) as original:
        for part, labels in zip(test.parts(_BATCH), test.labels.split(_BATCH), strict=True):
            pixels = part.to(torch.float32) / PIXEL_RANGE
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
    with borrow(make_whole(network)) as original:
        return compare_runs(load_exported(path, form, arch), original, batches)
