"""Choose where images are stored during training: on the device or on the host."""

import math
from dataclasses import replace

import torch

from nsopt.compute.device import Compute
from nsopt.compute.out_of_memory import free_memory, memory_for
from nsopt.data.images import ImageSet, Splits

_LARGEST_PART = 0.1  # of the free memory, because several workers may share the device


def place_images(splits: Splits, compute: Compute) -> Splits:
    """Move `splits` to the device of `compute`.

    A set that needs more than a tenth of the device's free memory stays where it is, for example in
    a memory-mapped file. Its batches have the same content and are copied one by one.

    Raises:
        OutOfMemoryError: if the device has too little memory.
    """
    device = compute.device
    with compute.computing(), memory_for(device, "the images"):
        return replace(
            splits,
            train=_place(splits.train, device),
            validation=_place(splits.validation, device),
            test=_place(splits.test, device),
            mean=splits.mean.to(device),
            std=splits.std.to(device),
        )


def _place(images: ImageSet, device: torch.device) -> ImageSet:
    free = free_memory(device)
    size = len(images) * math.prod(images.shape)
    if free is not None and size > _LARGEST_PART * free:
        return images
    return images.to(device)
