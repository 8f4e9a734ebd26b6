"""Read images with Pillow: a folder, or a zip of one, with a folder per class.

Sub-folders belong to the class around them. If there are both test/ and val/, val/ is the
validation set. If there are only class folders, nsopt divides their images.
"""

import hashlib
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from torch import Tensor

from nsopt.data.arrays import read_normalisation
from nsopt.data.images import PIXEL_RANGE, ImageData, ImageSet
from nsopt.data.source import FOLDER_PREFIX, Source, folder_path
from nsopt.errors import NsoptError, short_reason
from nsopt.files import cache_folder, written_beside
from nsopt.isolation import public

Classes = dict[str, list[Path]]  # the files of each class
_PARTS = ("train", "test", "val")
_MOST = 1280  # images without classes, more than a fit and its score need
_REFUSED = frozenset(  # formats that Pillow only names, or for which it would start a program
    {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
)
_WHITE = 65_535  # of 16 bits
_MOST_NAMES = 100  # damaged images that a message names


@public
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
    with opened(path) as root:
        files = images_in(root, Counter())
        if not files:
            raise NsoptError(f"{path}: no images: give a folder of images")
        order = np.random.default_rng(0).permutation(len(files))[:most]
        images, damaged = decode([[files[i] for i in sorted(order)]], image_size)
    refuse_damaged(damaged, path, "replace or remove them")
    pixels = images.images.float() / PIXEL_RANGE
    return (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def load_folder(source: Source) -> ImageData:
    """Load the images of `folder:PATH`, where PATH is a folder or a zip of one, as RGB.

    Images are cropped to their central square and resized to `image_size`. Without a size they must
    be square and all of one size.

    Raises:
        NsoptError: for a missing, empty, damaged or inconsistent folder.
    """
    path = folder_path(source.name)
    sets, damaged, left_out = {}, list[str](), Counter[str]()
    with opened(path) as root:
        parts = _find_parts(_enter(root), path, source, left_out)
        for part, files in parts.items():
            sets[part], broken = decode(list(files.values()), source.image_size)
            damaged += broken
    if not source.skip_corrupt:
        refuse_damaged(damaged, path, "replace or remove them, or give skip_corrupt=")
    classes = tuple(parts["train"])
    for part, images in sets.items():
        counts = images.labels.bincount(minlength=len(classes))
        if not counts.all():
            empty = classes[int(counts.argmin())]
            raise NsoptError(f"{path}: no complete image in {part}/{empty}: add some")
        if images.shape != sets["train"].shape:
            raise _other_size(path / part)
    named = path.resolve() if path.name in ("", "..") else path
    name = named.stem if named.suffix.lower() == ".zip" else named.name
    return ImageData(
        name=FOLDER_PREFIX + name.encode("utf-8", "replace").decode(),  # as UTF-8 can hold it
        classes=classes,
        train=sets["train"],
        test=sets["test"] if "test" in sets else sets["val"],
        validation=sets.get("val") if "test" in sets else None,
        skipped=(*damaged, *(f"{what}: {count:,}" for what, count in left_out.items() if count)),
    )


def _find_parts(
    root: Path, path: Path, source: Source, left_out: Counter[str]
) -> dict[str, Classes]:
    """Return the images of train, test and val by class."""
    given = [part for part in _PARTS if (root / part).is_dir()]
    if source.split is not None:
        if set(given) - {"train"}:
            raise NsoptError(f"{path} has test/ or val/ already: leave split= out")
        files = _list_class_files(root / "train" if given else root, path, left_out)
        parts = _divide(files, path, source.split)
    elif "train" not in given:
        also = "" if source.image_size else ", and image_size=64 if their sizes differ"
        raise NsoptError(
            f"{path} has no train/ folder: expected train/CLASS/IMAGE and test/CLASS/IMAGE, or "
            f"CLASS/IMAGE and split=0.8{also}"
        )
    elif len(given) == 1:
        raise NsoptError(f"{path} has train/ but neither test/ nor val/: divide it with split=0.8")
    else:
        parts = {part: _list_class_files(root / part, path, left_out) for part in given}
    for part, files in parts.items():
        for odd in sorted(set(files) ^ set(parts["train"])):
            raise NsoptError(f"{path}: class folder {odd!r} is not both in train/ and in {part}/")
    used = sum(len(files) for classes in parts.values() for files in classes.values())
    left_out["images outside class folders"] = len(images_in(root, Counter())) - used
    return parts


def _divide(classes: Classes, path: Path, fraction: float) -> dict[str, Classes]:
    """Divide every class into training and test images, always in the same way."""
    if not 0 < fraction < 1:
        raise NsoptError(f"split= must be between 0 and 1, got {fraction:g}")
    generator, train, test = np.random.default_rng(0), {}, {}
    for name, files in classes.items():
        if len(files) < 2:
            raise NsoptError(f"{path}: {name} has a single image, and split= needs two")
        order = generator.permutation(len(files))
        count = min(max(round(fraction * len(files)), 1), len(files) - 1)
        train[name] = [files[index] for index in sorted(order[:count])]
        test[name] = [files[index] for index in sorted(order[count:])]
    return {"train": train, "test": test}


def _enter(root: Path) -> Path:
    """Return `root`, or its only folder if that has folders: archives often have one on top."""
    folders = folders_in(root)
    if len(folders) != 1 or folders[0].name == "train" or not folders_in(folders[0]):
        return root
    return folders[0]


def _list_class_files(part: Path, path: Path, left_out: Counter[str]) -> Classes:
    files = {folder.name: images_in(folder, left_out) for folder in folders_in(part)}
    if len(files) < 2:
        raise NsoptError(f"{path}: {part.name}/ needs at least 2 class folders, has {len(files)}")
    for name, images in files.items():
        if not images:
            raise NsoptError(
                f"{path}: no images in {part.name}/{name}: add some, or remove the class"
            )
    return files


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without hidden ones and macOS metadata."""
    return sorted(e for e in folder.iterdir() if e.is_dir() and not _is_metadata(e.name))


def images_in(folder: Path, left_out: Counter[str]) -> list[Path]:
    """Return the images in a folder and in its sub-folders, also behind links, sorted by name.

    A file is an image if its suffix names a format that Pillow reads; hidden files are none.

    Args:
        left_out: counts all other files, by suffix.
    """
    suffixes = Image.registered_extensions()
    formats = {*Image.OPEN, "MPO"} - _REFUSED  # the reader of JPEG opens MPO
    start, images, walked = Path(os.path.realpath(folder)), [], set[str]()
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        inside = os.path.realpath(parent)
        if inside in walked or (
            walked and start.is_relative_to(inside)
        ):  # a link to what is around
            folders.clear()
            continue
        walked.add(inside)
        folders[:] = [name for name in folders if not _is_metadata(name)]
        for file in (Path(parent, name) for name in names if not _is_metadata(name)):
            if suffixes.get(file.suffix.lower()) in formats:
                images.append(file)
            else:
                left_out[f"{file.suffix.lower() or 'other'} files, which Pillow does not read"] += 1
    return sorted(images)


def _raise(error: OSError) -> None:
    raise error


def _is_metadata(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # Finder adds the latter to every zip


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yield a folder: `path` itself, or what is in the zip at `path`.

    Raises:
        NsoptError: if `path` is missing, or a damaged zip; or if the block cannot read a file.
    """
    try:
        if not path.is_dir() and not path.is_file():
            raise NsoptError(f"no folder or zip at {path}: check the path")
        yield path if path.is_dir() else _unpack(path)
    except OSError as error:
        raise NsoptError(
            f"{error.filename or path} cannot be read: {error.strerror}: check it"
        ) from None


def _unpack(path: Path) -> Path:
    """Return the folder of a zip in the cache folder; a zip that changed has another one."""
    status = path.stat()
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    folder = cache_folder() / "unpacked" / hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    if folder.is_dir():
        return folder
    try:
        with zipfile.ZipFile(path) as archive, written_beside(folder) as unfinished:
            unfinished.mkdir()
            archive.extractall(unfinished)  # which writes nothing outside
    except Exception as error:  # zipfile raises anything for a damaged file
        if not folder.is_dir():  # otherwise another process was faster
            raise NsoptError(
                f"{path} cannot be unpacked into {folder.parent} ({short_reason(error)}): copy it "
                "again, or unpack it yourself and give the folder"
            ) from None
    return folder


def decode(groups: Sequence[Sequence[Path]], size: int | None) -> tuple[ImageSet, list[str]]:
    """Read RGB images of 8 bits; the label is the index of the group.

    Args:
        groups: image files of each class.
        size: side in pixels, to which images are cropped and resized; None to keep their size.

    Returns:
        The images, and for every one that cannot be read a line with its name and the reason.

    Raises:
        NsoptError: for images that are not square or not all of one size, unless `size` is given.
    """
    files = [(file, label) for label, group in enumerate(groups) for file in group]
    images, labels, damaged = list[NDArray[np.uint8]](), list[int](), list[str]()
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(partial(_read, size=size), [file for file, _ in files])
        for (file, label), pixels in zip(files, found, strict=True):
            if isinstance(pixels, str):
                damaged.append(f"{file} {pixels}")
                continue
            images.append(pixels)
            labels.append(label)
            if pixels.shape != (3, *[images[0].shape[1]] * 2):
                raise _other_size(file)
    stored = np.stack(images) if images else np.empty((0, 3, 1, 1), np.uint8)
    return ImageSet(torch.from_numpy(stored), torch.tensor(labels, dtype=torch.int64)), damaged


def refuse_damaged(damaged: Sequence[str], path: Path, advice: str) -> None:
    """Raise NsoptError with the names of damaged images if there are any."""
    if damaged:
        unnamed = len(damaged) - _MOST_NAMES
        rest = f"; and {unnamed:,} more" if unnamed > 0 else ""
        raise NsoptError(f"{path}: {'; '.join(damaged[:_MOST_NAMES])}{rest}: {advice}")


def _other_size(path: Path) -> NsoptError:
    return NsoptError(
        f"{path}: images are not all square and of one size: give a size with image_size="
    )


def _read(file: Path, size: int | None) -> NDArray[np.uint8] | str:
    """Return pixels (3, H, W), upright and without alpha channel, or why there are none."""
    try:
        if not file.is_file():
            raise OSError("a broken link, or no file")
        with file.open("rb") as content:
            image = Image.open(content, formats=_list_formats(file))
            image.load()
        with suppress(Exception):  # EXIF data may be damaged
            ImageOps.exif_transpose(image, in_place=True)
        reduced = _reduce_bits(image) if image.mode.startswith(("I", "F")) else image
        coloured = reduced.convert("RGB")
    except Exception as error:  # Pillow raises anything for a damaged or hostile file
        reason = short_reason(error).partition(" <")[0]  # Pillow adds the open file
        return f"is not a complete image ({reason})"
    if size is not None and coloured.size != (size, size):
        coloured = ImageOps.fit(coloured, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(coloured).transpose(2, 0, 1)


def _list_formats(file: Path) -> list[str]:
    """Return the formats a file may have; those without a signature only if its suffix says so."""
    named = Image.registered_extensions().get(file.suffix.lower())
    return [
        name
        for name, (_, accept) in Image.OPEN.items()
        if name not in _REFUSED and (accept or name == named)
    ]


def _reduce_bits(image: ImageFile) -> Image.Image:
    """Return a grey image of 16 bits with 8. Pillow would make all pixels above 255 white.

    Raises:
        ValueError: for 32 bits, of which nobody knows which number is white.
    """
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("its pixels are of 32 bits: give it 8 or 16")
    return Image.fromarray((np.asarray(image) * (255 / _WHITE)).round().astype(np.uint8))
