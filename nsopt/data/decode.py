"""Reading images out of folders and zips, which look the same here, into uint8 arrays.

A zip is read in place: nothing is unpacked, so no name in it can reach outside, and its reader
checks every file's checksum.
"""

import math
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nsopt.data.cache import cache_folder
from nsopt.data.images import ImageSet
from nsopt.errors import NsoptError

Place = Path | zipfile.Path
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif"})


@contextmanager
def opened(path: Path) -> Iterator[Place]:
    """The root of a folder or a zip; NsoptError where it is not there or not whole."""
    if not path.exists():
        raise NsoptError(f"no folder or zip at {path}: is the path right?")
    try:
        if path.is_dir():
            yield path
        else:
            with zipfile.ZipFile(path) as archive:
                yield zipfile.Path(archive)
    except (zipfile.BadZipFile, EOFError) as error:
        raise NsoptError(f"{path} is not a whole zip ({error}): copy it again") from None


def images_in(folder: Place) -> list[Place]:
    """The image files of a folder, in the order of their names."""
    found = [e for e in folder.iterdir() if Path(e.name).suffix.lower() in _SUFFIXES]
    return sorted(found, key=lambda entry: entry.name)


def folders_in(folder: Place) -> list[Place]:
    """The folders of a folder, in the order of their names."""
    return sorted((e for e in folder.iterdir() if e.is_dir()), key=lambda entry: entry.name)


def decode(groups: Sequence[Sequence[Place]], size: int, path: Path) -> ImageSet:
    """RGB images of `size`; an image's label is the position of its group. path: for errors."""
    entries = [(entry, label) for label, group in enumerate(groups) for entry in group]
    images = _room_for((len(entries), 3, size, size))
    for row, (entry, _) in enumerate(entries):
        images[row] = np.asarray(_whole_image(entry, size, path)).transpose(2, 0, 1)
    labels = torch.tensor([label for _, label in entries], dtype=torch.int64)
    return ImageSet(torch.from_numpy(images), labels)


def _room_for(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory in a nameless file, which the system can write out; plain memory where disks are
    full, or files cannot be reserved."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except (OSError, AttributeError):
        return np.empty(shape, np.uint8)


def common_size(entries: Sequence[Place], path: Path) -> int:
    """The side of these images; NsoptError if they are not square or not alike."""
    sizes = {_whole_image(entry, None, path).size for entry in entries}
    width, height = min(sizes)
    if len(sizes) > 1 or width != height:
        raise NsoptError(f"{path}: images are not all square and of one size: give --image-size")
    return width


def _whole_image(entry: Place, size: int | None, path: Path) -> Image.Image:
    try:
        return _read(entry, size)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise NsoptError(f"{path}: {entry} is not a whole image ({error})") from None


def _read(entry: Place, size: int | None) -> Image.Image:
    with entry.open("rb") as file:
        image = Image.open(file).convert("RGB")
    if size is None or image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
