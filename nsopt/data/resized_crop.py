"""Random resized crops (Szegedy et al., 2015).

A window is never larger than its image, so resizing only enlarges it. Bilinear interpolation then
equals an antialiased resize.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

_LARGEST_RATIO = 4 / 3  # width over height


def draw_windows(
    count: int, smallest_area: float, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Draw one random window per image.

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
