"""Random windows of images, resized to the size of the images (Szegedy et al., 2015)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nsopt.torchvision_import import import_torchvision

_LARGEST_RATIO = 4 / 3  # of width and height


@dataclass(frozen=True, eq=False)
class Windows:
    """One window an image, as fractions: area of the image's, ratio of the sides as its logarithm,
    top and left of the room that there is. (N,) each."""

    area: Tensor
    log_ratio: Tensor
    top: Tensor
    left: Tensor

    @classmethod
    def draw(cls, count: int, smallest_area: float, generator: torch.Generator) -> "Windows":
        area, ratio, top, left = torch.rand(4, count, generator=generator)
        area = smallest_area + (1 - smallest_area) * area
        return cls(area, (2 * ratio - 1) * math.log(_LARGEST_RATIO), top, left)

    def box(self, image: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width in pixels; sides end at those of the image."""
        area, ratio = float(self.area[image]), math.exp(float(self.log_ratio[image]))
        high = max(1, min(height, round(height * math.sqrt(area / ratio))))
        wide = max(1, min(width, round(width * math.sqrt(area * ratio))))
        top = int(float(self.top[image]) * (height - high + 1))
        left = int(float(self.left[image]) * (width - wide + 1))
        return top, left, high, wide


def resized_crops(images: Tensor, windows: Windows, first: int) -> Tensor:
    """The windows of images uint8 (B, C, H, W), resized to H and W. first: window of images[0]."""
    functional = import_torchvision("transforms.v2.functional")
    _, _, height, width = images.shape
    return torch.stack(
        [
            functional.resized_crop(
                image, *windows.box(first + i, height, width), [height, width], antialias=True
            )
            for i, image in enumerate(images)
        ]
    )
