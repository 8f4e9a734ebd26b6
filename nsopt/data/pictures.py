"""Find and decode images: RGB, 8 bits, upright by their EXIF data, without alpha channels."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

from nsopt.data.images import ImageSet
from nsopt.errors import NsoptError, short_reason

LeftOut = Counter[str]  # how many files or images were left out, by reason
_REFUSED = frozenset(  # formats that Pillow only names, or for which it would start a program
    {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
)
_ALPHA, _LOW_BITS = "alpha channels", "all but the 8 highest bits of grey images of more"
_MOST_NAMES = 100  # damaged images that a message names
_AT_ONCE = 256  # images that wait to be copied


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without hidden ones and macOS metadata."""
    return sorted(e for e in folder.iterdir() if e.is_dir() and not _is_metadata(e.name))


def images_in(folder: Path, left_out: LeftOut) -> list[Path]:
    """Return the images in a folder and in its sub-folders, sorted by name.

    A file is an image if its suffix names a format that Pillow reads, or if Pillow recognises what
    is in it.

    Args:
        left_out: counts the files that are no images, by suffix, and hidden images.
    """
    images = []
    for file in _walk(folder):
        if any(_is_metadata(name) for name in file.relative_to(folder).parts):
            left_out["hidden images"] += has_image_suffix(file)
        elif has_image_suffix(file) or _is_recognised(file):
            images.append(file)
        else:
            kind = file.suffix.lower() or "other"
            left_out[f"{kind} files in which Pillow finds no image"] += 1
    return sorted(images)


def has_image_suffix(file: Path) -> bool:
    """Return whether the suffix of a file names a format that nsopt reads."""
    return _format_of(file) in Image.OPEN.keys() - _REFUSED


def decode(
    groups: Sequence[Sequence[Path]], size: int | None, left_out: LeftOut
) -> tuple[ImageSet, list[str]]:
    """Read RGB images; the label is the index of the group.

    Args:
        groups: image files of each class.
        size: side in pixels, to which images are cropped and resized; None to keep their size.
        left_out: counts the images that lose an alpha channel or bits.

    Returns:
        The images, and for every one that cannot be read a line with its name and the reason.

    Raises:
        NsoptError: for images that are not square or not all of one size, unless `size` is given;
            if they do not fit in memory.
    """
    files = [(file, label) for label, group in enumerate(groups) for file in group]
    images, labels, damaged = np.empty((0, 3, 1, 1), np.uint8), list[int](), list[str]()
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(files), _AT_ONCE):
            some = files[start : start + _AT_ONCE]
            found = pool.map(partial(_read, size=size), [file for file, _ in some])
            for (file, label), (pixels, losses) in zip(some, found, strict=True):
                left_out.update(losses)
                if isinstance(pixels, str):
                    damaged.append(f"{file} {pixels}")
                    continue
                if not labels:
                    images = _allocate(len(files), pixels.shape[0])
                if pixels.shape != (*images.shape[2:], 3):
                    raise other_size(file)
                images[len(labels)] = pixels.transpose(2, 0, 1)
                labels.append(label)
    complete = torch.from_numpy(images[: len(labels)])
    return ImageSet(complete, torch.tensor(labels, dtype=torch.int64)), damaged


def refuse_damaged(damaged: Sequence[str], path: Path, advice: str) -> None:
    """Raise NsoptError with the names of damaged images if there are any."""
    if damaged:
        unnamed = len(damaged) - _MOST_NAMES
        rest = f"; and {unnamed:,} more" if unnamed > 0 else ""
        raise NsoptError(f"{path}: {'; '.join(damaged[:_MOST_NAMES])}{rest}: {advice}")


def other_size(place: Path) -> NsoptError:
    """Return the error for images that need `image_size`; `place` is one of them or a folder."""
    return NsoptError(
        f"{place}: images are not all square and of one size: give a size with image_size="
    )


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, also behind links, but never a folder inside itself."""
    for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        around = os.path.realpath(parent)
        folders[:] = [
            name
            for name in folders
            if not Path(around).is_relative_to(os.path.realpath(os.path.join(parent, name)))
        ]
        yield from (Path(parent, name) for name in files)


def _raise(error: OSError) -> None:
    raise error


def _is_metadata(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # Finder adds the latter to every zip


def _format_of(file: Path) -> str | None:
    return Image.registered_extensions().get(file.suffix.lower())


def _list_formats(file: Path) -> list[str]:
    """Return the formats in which Pillow may read a file.

    Formats without a signature count only if the suffix names them.
    """
    named = _format_of(file)
    return [
        name
        for name, (_, accept) in Image.OPEN.items()
        if name not in _REFUSED and (accept or name == named)
    ]


def _is_recognised(file: Path) -> bool:
    """Return whether Pillow recognises a file by its first bytes."""
    try:
        if not file.is_file():
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(file, formats=_list_formats(file)).close()
    except Image.DecompressionBombError:
        return True  # `decode` names it
    except Exception:  # Pillow raises anything for a damaged or hostile file
        return False
    return True


def _allocate(count: int, side: int) -> NDArray[np.uint8]:
    try:
        return np.empty((count, 3, side, side), np.uint8)
    except (MemoryError, ValueError):
        raise NsoptError(
            f"{count:,} images of {side:,}x{side:,} pixels do not fit in memory: give a smaller "
            "image_size="
        ) from None


def _read(file: Path, size: int | None) -> tuple[NDArray[np.uint8] | str, list[str]]:
    """Return pixels (H, W, 3), or why there are none; and what was lost."""
    try:
        if not file.is_file():
            raise OSError("a broken link, or no file")
        with file.open("rb") as content:
            image = Image.open(content, formats=_list_formats(file))
            image.load()
    except Exception as error:  # Pillow raises anything for a damaged or hostile file
        reason = short_reason(error).partition(" <")[0]  # Pillow adds the open file
        return f"is not a complete image ({reason})", []
    with suppress(Exception):  # EXIF data may be damaged
        ImageOps.exif_transpose(image, in_place=True)
    losses = []
    try:
        if image.mode.startswith(("I", "F")):
            coloured = _reduce_bits(image).convert("RGB")
            losses.append(_LOW_BITS)
        else:
            coloured = image.convert("RGB")
            rgba = np.asarray(image.convert("RGBA")) if image.has_transparency_data else None
            if rgba is not None and rgba[..., 3].min() < 255:
                losses.append(_ALPHA)
        if size is not None and coloured.size != (size, size):
            coloured = ImageOps.fit(coloured, (size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # also of what Pillow cannot convert
        return f"cannot be converted to RGB ({short_reason(error)})", []
    return np.asarray(coloured), losses


def _reduce_bits(image: ImageFile) -> Image.Image:
    """Return a grey image of 16 bits with 8. Pillow would make all pixels above 255 white.

    Raises:
        ValueError: for 32 bits, of which nobody knows which number is white.
    """
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "real numbers" if image.mode == "F" else "integers"
        raise ValueError(f"its pixels are {kind} of 32 bits: give it 8 or 16")
    tags = getattr(image, "tag_v2", {})  # of TIFF, where Pillow keeps 12 bits as they are
    white = 2 ** tags.get(BITSPERSAMPLE, (16,))[0] - 1
    pixels = np.asarray(image) * (255 / white)
    if tags.get(PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white
        pixels = 255 - pixels
    return Image.fromarray(pixels.round().astype(np.uint8))
