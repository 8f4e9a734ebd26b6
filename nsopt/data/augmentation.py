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
        is_resized = self._resized_crop is not None
        cut = cut_windows(images, self._windows[:, here], self._flipped[here], is_resized)
        return normalise(cut, self._splits), labels

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
        shifts = [torch.randint(2 * _PADDING + 1, (count,), generator=generator) for _ in range(2)]
        mirrored = torch.rand(count, generator=generator) < 0.5
        self._flipped = (mirrored & self._splits.mirror).to(device)
        shape = self._splits.train.shape
        if self._resized_crop is None:
            top, left = (shift.float() - _PADDING for shift in shifts)
            sides = (torch.full((count,), float(side)) for side in shape[1:])
            windows = torch.stack([top, left, *sides])
        else:
            windows = draw_windows(count, self._resized_crop, shape, generator)
        self._windows = windows.to(device)


def normalise(images: Tensor, splits: Splits) -> Tensor:
    """Normalise pixels (B, C, H, W) to mean 0 and standard deviation 1 over the training set."""
    return (images - splits.mean[:, None, None]) / splits.std[:, None, None]


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


def cut_windows(images: Tensor, windows: Tensor, flipped: Tensor, is_resized: bool) -> Tensor:
    """Cut a window out of each image, mirror it if `flipped`, and resize it to the image's size.

    Args:
        images: uint8 (B, C, H, W).
        windows: first row, first column, height and width of each, float32 (4, B); parts outside an
            image are black.
        flipped: which windows to mirror, bool (B,).
        is_resized: whether windows are smaller than images; bilinear interpolation enlarges them.

    Returns:
        Images float32 (B, C, H, W).
    """
    image_height, image_width = images.shape[2:]
    top, height = windows[0::2].float() / image_height
    left, width = windows[1::2].float() / image_width
    side, zero = torch.where(flipped, -width, width), torch.zeros_like(width)
    rows = [side, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1]
    maps = torch.stack(rows, 1).reshape(-1, 2, 3)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    how = ("bilinear", "border") if is_resized else ("nearest", "zeros")
    return functional.grid_sample(images.float(), grid, *how, align_corners=False)
