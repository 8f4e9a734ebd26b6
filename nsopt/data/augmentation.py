"""Batches of normalised images, augmented on the training device."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nsopt.data.images import Splits
from nsopt.errors import NsoptError

_PADDING = 4
_LARGEST_RATIO = 4 / 3  # width of a random window over its height


class TrainingBatches:
    """Shuffled, cropped and mirrored batches of the training set, epoch after epoch.

    Batches are on the device of the splits' `mean`. All random numbers depend on `seed` and are
    drawn on the CPU once per epoch. If the last batch has only one image, it is dropped: BatchNorm
    cannot train on it.

    Args:
        seed: determines all random numbers.
        resized_crop: smallest area of random resized crops; None shifts images by up to 4 pixels.
    """

    def __init__(
        self, splits: Splits, batch_size: int, seed: int, resized_crop: float | None = None
    ) -> None:
        self._splits = splits
        self._resized_crop = resized_crop
        self._batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)
        full, rest = divmod(len(splits.train), batch_size)
        self.per_epoch = full + (rest > 1)
        if not self.per_epoch:
            raise NsoptError("training needs at least two images: add some")
        self._start_epoch()

    def next(self) -> tuple[Tensor, Tensor]:
        """Return the next batch: normalised images float (B, C, H, W), labels int64 (B,)."""
        if self._position == self.per_epoch:
            self._start_epoch()
        start = self._position * self._batch_size
        here = slice(start, start + self._batch_size)
        self._position += 1
        images, labels = self._splits.train.batch(self._order[here], self._splits.mean.device)
        flipped = self._flipped[here]
        if self._windows is None:
            images = crop_and_mirror(images, self._top[here], self._left[here], flipped)
        else:
            images = resized_crops(images, self._windows[:, here], flipped)
        return normalise(images, self._splits), labels

    def state(self) -> dict[str, Any]:
        return {"epoch_start": self._epoch_start, "position": self._position}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._generator.set_state(state["epoch_start"])
        self._start_epoch()
        self._position = state["position"]

    def _start_epoch(self) -> None:
        self._epoch_start = self._generator.get_state()
        self._position = 0
        count, device = len(self._splits.train), self._splits.mean.device
        generator = self._generator
        order = torch.randperm(count, generator=generator)
        self._order = order.to(self._splits.train.labels.device)
        self._top = torch.randint(2 * _PADDING + 1, (count,), generator=generator).to(device)
        self._left = torch.randint(2 * _PADDING + 1, (count,), generator=generator).to(device)
        mirrored = torch.rand(count, generator=generator) < 0.5
        self._flipped = (mirrored & self._splits.mirror).to(device)
        self._windows = None
        if self._resized_crop is not None:
            shape = self._splits.train.shape
            self._windows = draw_windows(count, self._resized_crop, shape, generator).to(device)


def normalise(images: Tensor, splits: Splits) -> Tensor:
    """Normalise pixels (B, C, H, W) to mean 0 and standard deviation 1 over the training set."""
    return (images - splits.mean[:, None, None]) / splits.std[:, None, None]


def crop_and_mirror(images: Tensor, top: Tensor, left: Tensor, flipped: Tensor) -> Tensor:
    """Pad by 4 black pixels, crop, and mirror if `flipped` (paper, section 4).

    Args:
        images: (B, C, H, W).
        top: first row of each crop, int64 (B,), from 0 to 8.
        left: first column, likewise.
        flipped: which images to mirror, bool (B,).

    Returns:
        Images of the shape and type of `images`.
    """
    count, _, height, width = images.shape
    device = images.device
    rows = top[:, None] + torch.arange(height, device=device)
    across = torch.arange(width, device=device)
    columns = left[:, None] + torch.where(flipped[:, None], across.flip(0), across)
    padded = functional.pad(images, [_PADDING] * 4).permute(0, 2, 3, 1)
    batch = torch.arange(count, device=device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def draw_windows(
    count: int, smallest_area: float, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Draw one random window per image (Szegedy et al., 2015).

    Args:
        smallest_area: smallest area of a window, over the area of the image.
        shape: shape of an image, (C, H, W).

    Returns:
        First row, first column, height and width of each window: whole numbers of pixels, float32
        (4, count).
    """
    image_height, image_width = shape[-2:]
    area, ratio, top, left = torch.rand(4, count, generator=generator).double()
    area = smallest_area + (1 - smallest_area) * area
    ratio = torch.exp((2 * ratio - 1) * math.log(_LARGEST_RATIO))
    height = (image_height * (area / ratio).sqrt()).round().clamp(1, image_height)
    width = (image_width * (area * ratio).sqrt()).round().clamp(1, image_width)
    top = (top * (image_height - height + 1)).floor()
    left = (left * (image_width - width + 1)).floor()
    return torch.stack([top, left, height, width]).float()


def resized_crops(images: Tensor, windows: Tensor, flipped: Tensor) -> Tensor:
    """Crop images to windows and resize these to the size of the images.

    A window is never larger than its image, so resizing only enlarges it. Bilinear interpolation
    then equals an antialiased resize.

    Args:
        images: uint8 (B, C, H, W).
        windows: of `draw_windows`, (4, B).
        flipped: which images to mirror, bool (B,).

    Returns:
        Images float32 (B, C, H, W).
    """
    count, _, height, width = images.shape
    tops, lefts, heights, widths = windows
    x = _compute_positions(lefts, widths, width)
    x = torch.where(flipped[:, None], x.flip(1), x)
    y = _compute_positions(tops, heights, height)
    everywhere = (count, height, width)
    grid = torch.stack([x[:, None, :].expand(everywhere), y[:, :, None].expand(everywhere)], -1)
    return functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def _compute_positions(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Return the positions (B, size) along one side of the windows, from -1 to 1 over the image.

    They stay within the centres of a window's outermost pixels.
    """
    steps = (torch.arange(size, device=first.device) + 0.5) / size
    inside = (length[:, None] * steps).clamp(min=0.5).minimum(length[:, None] - 0.5)
    return 2 * (first[:, None] + inside) / size - 1
