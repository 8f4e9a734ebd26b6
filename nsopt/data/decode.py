"""Read images from folders and zips into uint8 arrays.

Files of a zip are read without unpacking, so no name in a zip can write elsewhere. zipfile checks
every checksum.
"""

import math
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nsopt.data.images import ImageSet
from nsopt.errors import NsoptError, short_reason
from nsopt.files import cache_folder

Place = Path | zipfile.Path
_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
)
# Other formats are refused, whatever a file is called: for some, Pillow would start a program.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
_MOST_NAMES = 100  # damaged images that a message names
_ENCRYPTED = 1  # a flag of a file in a zip
_SMALL, _LARGEST_FACTOR = 2**24, 200  # most bytes of a file in a zip; or times its packed size


@contextmanager
def open_place(path: Path) -> Iterator[Place]:
    """Open a folder or a zip. Raises NsoptError if it is missing, damaged or unsafe."""
    try:
        if path.is_dir():
            yield path
        elif path.is_file():
            with _open_zip(path) as archive:
                yield zipfile.Path(archive)
        else:
            raise NsoptError(f"no folder or zip at {path}: check the path")
    except OSError as error:
        raise NsoptError(f"{error.filename or path} cannot be read: {error.strerror}") from None


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises anything for a damaged file
        raise NsoptError(f"{path} is not a complete zip ({error}): copy it again") from None
    members = archive.infolist()
    for member in members:
        name = f"{path}: {member.filename}"
        if member.flag_bits & _ENCRYPTED:
            raise NsoptError(f"{name} is encrypted: unpack the zip, and give the folder")
        if member.file_size > max(_SMALL, _LARGEST_FACTOR * member.compress_size):
            raise NsoptError(
                f"{name} would unpack to {member.file_size:,} bytes, too many for an image: "
                "remove it from the zip"
            )
    if sum(member.compress_size for member in members) > path.stat().st_size:
        raise NsoptError(f"{path} is not a complete zip (its files overlap): copy it again")
    return archive


def images_in(folder: Place) -> list[Place]:
    """Return the image files of a folder, sorted by name. Raises NsoptError if it is missing."""
    if not folder.is_dir():
        raise NsoptError(f"the folder {folder} is missing: fetch or copy the data again")
    found = [e for e in _list_children(folder) if Path(e.name).suffix.lower() in _SUFFIXES]
    return sorted(found, key=lambda entry: entry.name)


def folders_in(folder: Place) -> list[Place]:
    """Return the folders in a folder, sorted by name, without hidden ones and macOS metadata."""
    found = [e for e in _list_children(folder) if e.is_dir() and not _is_metadata(e.name)]
    return sorted(found, key=lambda entry: entry.name)


def _is_metadata(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # Finder adds the latter to every zip


def _list_children(folder: Place) -> Iterator[Place]:
    """Yield the entries of a folder.

    For a zip, `iterdir` would make an object for each file of the zip, in every folder.
    """
    if isinstance(folder, Path):
        yield from folder.iterdir()
        return
    start = folder.at
    for name in folder.root.namelist():
        if name.startswith(start) and "/" not in name[len(start) : -1] and name != start:
            yield zipfile.Path(folder.root, name)


def decode(
    groups: Sequence[Sequence[Place]], size: int, resize: bool = True
) -> tuple[ImageSet, list[str]]:
    """Read RGB images; the label is the index of the group.

    Args:
        groups: image files of each class.
        size: side in pixels.
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
        image = _read_image(entry, size if resize else None)
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
    """Raise NsoptError with the names of damaged images if there are any.

    Args:
        damaged: lines of `decode`.
        path: the folder or zip.
        advice: what to do, the end of the message.
    """
    if damaged:
        more = len(damaged) - _MOST_NAMES
        rest = f"; and {more:,} more" if more > 0 else ""
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
        return np.empty(shape, np.uint8)


def common_size(groups: Sequence[Sequence[Place]], path: Path) -> int:
    """Return the common side of the first intact image of each group; 1 without any.

    Raises:
        NsoptError: if these images differ in size or are not square.
    """
    sizes = set()
    for group in groups:
        images = (_read_image(entry, None) for entry in group)
        complete = (image for image in images if not isinstance(image, str))
        sizes |= {image.size for image in islice(complete, 1)}
    width, height = min(sizes, default=(1, 1))
    if len(sizes) > 1 or width != height:
        raise _other_size(path)
    return width


def _other_size(where: Place) -> NsoptError:
    """Return the error for images that need `image_size`; `where` is one of them or a folder."""
    return NsoptError(
        f"{where}: images are not all square and of one size: give a size with --image-size, "
        "or image_size= in Python"
    )


def _read_image(entry: Place, size: int | None) -> Image.Image | str:
    """Return an image; if it is damaged, a line with its name and the reason."""
    try:
        return _read(entry, size)
    except Exception as error:  # Pillow and zipfile raise anything for a damaged or hostile file
        return f"{entry} is not a complete image ({short_reason(error)})"


def _read(entry: Place, size: int | None) -> Image.Image:
    if not entry.is_file():
        raise OSError("a broken link, or no file")
    with entry.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        stored = Image.open(file, formats=_FORMATS)
        if stored.mode.startswith(("I", "F")):  # convert would cut all above 255
            raise OSError("more than 8 bits per channel: convert it to 8")
        image = stored.convert("RGB")
    if size is None or image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
