"""Random resized crops (Szegedy et al., 2015).

A window is never larger than its image, so resizing only enlarges it. Bilinear interpolation then
equals an antialiased resize.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_LARGEST_RATIO = 4 / 3  # width over height


@dataclass(frozen=True, eq=False)
class Windows:
    """One window per image. All attributes are whole numbers of pixels, float32 (N,).

    Attributes:
        top: first row.
        left: first column.
        height: number of rows.
        width: number of columns.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    @classmethod
    def draw(
        cls, count: int, smallest_area: float, shape: tuple[int, ...], generator: torch.Generator
    ) -> "Windows":
        """Draw random windows.

        Args:
            smallest_area: smallest area of a window, over the area of the image.
            shape: shape of an image, (C, H, W).
        """
        image_height, image_width = shape[-2:]
        area, ratio, top, left = torch.rand(4, count, generator=generator).double()
        area = smallest_area + (1 - smallest_area) * area
        ratio = torch.exp((2 * ratio - 1) * math.log(_LARGEST_RATIO))
        height = (image_height * (area / ratio).sqrt()).round().clamp(1, image_height)
        width = (image_width * (area * ratio).sqrt()).round().clamp(1, image_width)
        top = (top * (image_height - height + 1)).floor()
        left = (left * (image_width - width + 1)).floor()
        return cls(top.float(), left.float(), height.float(), width.float())

    def to(self, device: torch.device) -> "Windows":
        return Windows(*(part.to(device) for part in self._parts))

    def __getitem__(self, where: slice) -> "Windows":
        return Windows(*(part[where] for part in self._parts))

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.top, self.left, self.height, self.width


def resized_crops(images: Tensor, windows: Windows, flipped: Tensor) -> Tensor:
    """Crop images to windows and resize these to the size of the images.

    Args:
        images: uint8 (B, C, H, W).
        flipped: which images to mirror, bool (B,).

    Returns:
        Images float32 (B, C, H, W).
    """
    count, _, height, width = images.shape
    x = _compute_positions(windows.left, windows.width, width)
    x = torch.where(flipped[:, None], x.flip(1), x)
    y = _compute_positions(windows.top, windows.height, height)
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
