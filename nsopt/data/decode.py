"""Reading images out of folders and zips, which look the same here, into uint8 arrays.

A zip is read in place: nothing is unpacked, so no name in it can reach outside, and its reader
checks every file's checksum.
"""

import math
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nsopt.data.images import ImageSet
from nsopt.errors import NsoptError
from nsopt.files import cache_folder

Place = Path | zipfile.Path
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif"})
# What such files hold, whatever their names say: Pillow would start a program for others.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
_ENCRYPTED = 1  # among the flags of a file in a zip
_SMALL, _LARGEST_FACTOR = 2**24, 200  # bytes of a file in a zip, and times its packed size


@contextmanager
def opened(path: Path) -> Iterator[Place]:
    """The root of a folder or a zip; NsoptError where it is not there, not whole, or not safe."""
    try:
        if path.is_dir():
            yield path
        elif path.is_file():
            with _zip(path) as archive:
                yield zipfile.Path(archive)
        else:
            raise NsoptError(f"no folder or zip at {path}: is the path right?")
    except OSError as error:
        raise NsoptError(f"{error.filename or path} cannot be read: {error.strerror}") from None


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # whatever a damaged file makes zipfile raise
        raise NsoptError(f"{path} is not a whole zip ({error}): copy it again") from None
    members = archive.infolist()
    for member in members:
        name = f"{path}: {member.filename}"
        if member.flag_bits & _ENCRYPTED:
            raise NsoptError(f"{name} is encrypted: unpack the zip, and give the folder")
        if member.file_size > max(_SMALL, _LARGEST_FACTOR * member.compress_size):
            raise NsoptError(f"{name} would unpack to {member.file_size:,} bytes, as no image does")
    if sum(member.compress_size for member in members) > path.stat().st_size:
        raise NsoptError(f"{path} is not a whole zip (its files overlap): copy it again")
    return archive


def images_in(folder: Place) -> list[Place]:
    """The image files of a folder, in the order of their names. NsoptError if it is none."""
    if not folder.is_dir():
        raise NsoptError(f"no folder {folder}: is the data whole?")
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
    except Exception as error:  # whatever a damaged or hostile file makes Pillow or zipfile raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NsoptError(f"{path}: {entry} is not a whole image ({reason})") from None


def _read(entry: Place, size: int | None) -> Image.Image:
    if not entry.is_file():
        raise OSError("a broken link, or no file")
    with entry.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(file, formats=_FORMATS).convert("RGB")
    if size is None or image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
