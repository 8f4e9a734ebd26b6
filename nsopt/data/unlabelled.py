"""Read images without classes: enough to fit networks without training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nsopt.arguments import checked
from nsopt.data.decode import common_size, decode, refuse_damaged
from nsopt.data.images import PIXEL_RANGE
from nsopt.data.normalisation import read_normalisation
from nsopt.data.places import LeftOut, images_in, open_place
from nsopt.errors import NsoptError

_MOST = 1280  # images, more than a fit and its score need


@checked
def load_images(
    folder: Path | str,
    image_size: int | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    most: int = _MOST,
) -> Tensor:
    """Return the images in a folder or a zip, and in its sub-folders: inputs of a network.

    They need no classes. `nsopt.fit` takes them as they are, `nsopt.Task` in batches.

    Args:
        folder: a folder, or a zip of one.
        image_size: side in pixels. Images are cropped to their central square and resized. None
            keeps their size; they must then be square and all of one size.
        mean: mean of each channel of pixels from 0 to 1, by which images are normalised as in the
            training of the network.
        std: standard deviation of each channel.
        most: number of images; of more, a random choice at a fixed seed.

    Returns:
        RGB images, (N, 3, side, side), float32.

    Raises:
        NsoptError: for a missing or empty folder, damaged images, images of different sizes, or a
            mean that is not of pixels from 0 to 1.

    Examples:
        >>> photos = nsopt.load_images("photos", 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        >>> task = nsopt.Task(photos.split(64), name="photos")
    """
    path, shape = Path(folder).expanduser(), (3, 1, 1)
    mean, std = read_normalisation(mean, std, channels=3)
    if most < 1 or (image_size is not None and image_size < 1):
        raise NsoptError("image_size and most must be at least 1")
    with open_place(path) as place:
        files = images_in(place, LeftOut())
        if not files:
            raise NsoptError(f"{path}: no images")
        order = np.random.default_rng(0).permutation(len(files))[:most]
        chosen = [files[index] for index in sorted(order)]
        size = image_size or common_size([chosen], path)
        images, damaged = decode([chosen], size, LeftOut(), resize=image_size is not None)
    refuse_damaged(damaged, path, "replace or remove what is damaged")
    pixels = images.images.float() / PIXEL_RANGE
    return (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
