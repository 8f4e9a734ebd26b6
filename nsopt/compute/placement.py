"""Where images lie while networks are trained on them."""

import math
from dataclasses import replace

import torch

from nsopt.compute.device import Compute
from nsopt.compute.out_of_memory import free_memory, memory_for
from nsopt.data.images import ImageSet, Splits

_LARGEST_PART = 0.1  # of the memory that is free; several workers may share the device


def place_images(splits: Splits, compute: Compute) -> Splits:
    """`splits`, for networks on the device of `compute`. Raises OutOfMemoryError.

    A set of images that takes more than a tenth of the device's free memory stays where it is, such
    as in a mapped file, and its batches are copied. They are the same wherever the images lie.
    """
    device = compute.device
    with compute.computing(), memory_for(device, "the images"):
        return replace(
            splits,
            train=_placed(splits.train, device),
            validation=_placed(splits.validation, device),
            test=_placed(splits.test, device),
            mean=splits.mean.to(device),
            std=splits.std.to(device),
        )


def _placed(images: ImageSet, device: torch.device) -> ImageSet:
    free = free_memory(device)
    size = len(images) * math.prod(images.shape)
    if free is not None and size > _LARGEST_PART * free:
        return images
    return images.to(device)
