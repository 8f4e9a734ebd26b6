"""Decode images into uint8 arrays: upright by their EXIF orientation, without alpha channels."""

import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nsopt.data.images import ImageSet
from nsopt.data.places import LeftOut, Place, read_formats
from nsopt.errors import NsoptError, short_reason
from nsopt.files import cache_folder

_MOST_NAMES = 100  # damaged images that a message names
_ALPHA = "alpha channels"


def decode(
    groups: Sequence[Sequence[Place]], size: int, left_out: LeftOut, resize: bool = True
) -> tuple[ImageSet, list[str]]:
    """Read RGB images; the label is the index of the group.

    Args:
        groups: image files of each class.
        size: side in pixels.
        left_out: counts the images whose alpha channel is dropped.
        resize: whether to crop and resize images of another size.

    Returns:
        The images, and for every damaged one a line with its name and the reason.

    Raises:
        NsoptError: for an image of another size, unless `resize` is true.
    """
    entries = [(entry, label) for label, group in enumerate(groups) for entry in group]
    images = _allocate((len(entries), 3, size, size))
    labels, damaged = list[int](), list[str]()
    for entry, label in entries:
        image = _read_image(entry, size if resize else None, left_out)
        if isinstance(image, str):
            damaged.append(image)
        elif image.size != (size, size):
            raise _other_size(entry)
        else:
            images[len(labels)] = np.asarray(image).transpose(2, 0, 1)
            labels.append(label)
    complete = torch.from_numpy(images[: len(labels)])
    return ImageSet(complete, torch.tensor(labels, dtype=torch.int64)), damaged


def refuse_damaged(damaged: Sequence[str], path: Path, advice: str) -> None:
    """Raise NsoptError with the names of damaged images if there are any."""
    if damaged:
        unnamed = len(damaged) - _MOST_NAMES
        rest = f"; and {unnamed:,} more" if unnamed > 0 else ""
        raise NsoptError(f"{path}: {'; '.join(damaged[:_MOST_NAMES])}{rest}: {advice}")


def _allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Allocate an array in a temporary file, which the system can move from memory to the disk.

    If the disk is full, or cannot reserve space, the array is in memory alone.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except (OSError, AttributeError):
        pass
    try:
        return np.empty(shape, np.uint8)
    except (MemoryError, ValueError):
        raise NsoptError(
            f"{shape[0]:,} images of {shape[-1]:,}x{shape[-1]:,} pixels do not fit in memory: "
            "give a smaller image_size="
        ) from None


def common_size(groups: Sequence[Sequence[Place]], path: Path) -> int:
    """Return the common side of the first intact image of each group; 1 without any.

    Raises:
        NsoptError: if these images differ in size or are not square.
    """
    sizes = set()
    for group in groups:
        images = (_read_image(entry, None, LeftOut()) for entry in group)
        complete = (image for image in images if not isinstance(image, str))
        sizes |= {image.size for image in islice(complete, 1)}
    width, height = min(sizes, default=(1, 1))
    if len(sizes) > 1 or width != height:
        raise _other_size(path)
    return width


def _other_size(where: Place) -> NsoptError:
    """Return the error for images that need `image_size`; `where` is one of them or a folder."""
    return NsoptError(
        f"{where}: images are not all square and of one size: give a size with image_size="
    )


def _read_image(entry: Place, size: int | None, left_out: LeftOut) -> Image.Image | str:
    """Return an image; if it is damaged, a line with its name and the reason."""
    try:
        return _read(entry, size, left_out)
    except Exception as error:  # Pillow and zipfile raise anything for a damaged or hostile file
        reason = short_reason(error).partition(" <")[0]  # Pillow adds the open file
        return f"{entry} is not a complete image ({reason})"


def _read(entry: Place, size: int | None, left_out: LeftOut) -> Image.Image:
    if not entry.is_file():
        raise OSError("a broken link, or no file")
    with entry.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        stored = Image.open(file, formats=read_formats(entry))
        if stored.mode.startswith(("I", "F")):  # convert would cut all above 255
            raise OSError("more than 8 bits per channel: convert it to 8")
        image = stored.convert("RGB")
        left_out[_ALPHA] += stored.has_transparency_data and any(
            stored.convert("RGBA").getchannel("A").histogram()[:255]
        )
    with suppress(Exception):  # EXIF data may be damaged
        ImageOps.exif_transpose(image, in_place=True)
    if size is None or image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
