"""Batches of normalised images, augmented on the device they live on."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from nsopt.data.images import ImageSet, Splits

_PADDING = 4


def training_batches(
    splits: Splits, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled, cropped and mirrored batches of the training set.

    Yields images float32 (B, C, H, W) and labels int64 (B,). `generator` (on the CPU) is the only
    source of randomness. A last batch of one image is left out: BatchNorm cannot train on it.
    """
    train = splits.train
    order = torch.randperm(len(train), generator=generator).to(train.images.device)
    for rows in order.split(batch_size):
        if len(rows) > 1 or batch_size == 1:
            images = crop_and_mirror(train.images[rows], splits.mirror, generator)
            yield normalise(images, splits), train.labels[rows]


def evaluation_batches(
    images: ImageSet, splits: Splits, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of `images` in order, normalised as in training."""
    batches = zip(images.images.split(batch_size), images.labels.split(batch_size), strict=True)
    for batch, labels in batches:
        yield normalise(batch, splits), labels


def batches_per_epoch(images: int, batch_size: int) -> int:
    """Number of batches that `training_batches` yields."""
    full, rest = divmod(images, batch_size)
    return full + (rest > 1)


def normalise(images: Tensor, splits: Splits) -> Tensor:
    """uint8 (B, C, H, W) to float32 of mean 0 and standard deviation 1 over the training set."""
    return (images - splits.mean[:, None, None]) / splits.std[:, None, None]


def crop_and_mirror(images: Tensor, mirror: bool, generator: torch.Generator) -> Tensor:
    """Pad by 4 black pixels, crop at random, and mirror every other image (paper, section 4).

    images: (B, C, H, W); the result has its shape and type.
    """
    count, _, height, width = images.shape
    top = torch.randint(2 * _PADDING + 1, (count, 1), generator=generator)
    left = torch.randint(2 * _PADDING + 1, (count, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    if mirror:
        flipped = torch.rand(count, generator=generator) < 0.5
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    padded = functional.pad(images, [_PADDING] * 4).permute(0, 2, 3, 1)
    batch = torch.arange(count, device=images.device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
