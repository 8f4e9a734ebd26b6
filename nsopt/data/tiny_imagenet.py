"""Tiny ImageNet in its original layout, zip or folder: 200 classes, 64x64 (Stanford CS231n).

train/WNID/images/*.JPEG; val/images/*.JPEG with val_annotations.txt. The test images have no
labels, so val/ is the test set, as in the paper, and train/ gives the validation images.
"""

import urllib.error
from pathlib import Path
from typing import Any

from nsopt.data.cache import load_cached
from nsopt.data.checksum import check_md5
from nsopt.data.decode import decode, refuse_damaged
from nsopt.data.images import ImageData, ImageSet
from nsopt.data.places import LeftOut, Place, folders_in, images_in, open_place
from nsopt.errors import NsoptError, short_reason
from nsopt.torchvision_import import import_torchvision

ARCHIVE = "tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_URL = f"http://cs231n.stanford.edu/{ARCHIVE}"
_ROOT = "tiny-imagenet-200"


def load_tiny_imagenet(directory: Path, image_size: int = 64) -> ImageData:
    """Load Tiny ImageNet, resized to `image_size`.

    Args:
        directory: contains the published zip or its unpacked folder, or is such a zip.
    """
    path = _find(directory)
    return load_cached(path, f"tiny-imagenet {image_size}", lambda: _load(path, image_size))


def fetch_tiny_imagenet(directory: Path) -> None:
    """Download the archive and check it. Raises NsoptError if the download fails."""
    utils: Any = import_torchvision("datasets").utils
    try:
        utils.download_url(_URL, str(directory), ARCHIVE, MD5)
    except (OSError, RuntimeError, urllib.error.URLError) as error:
        raise NsoptError(
            f"tiny-imagenet cannot be downloaded ({short_reason(error)}): put {ARCHIVE} "
            f"(md5 {MD5}) into {directory}"
        ) from None


def _find(directory: Path) -> Path:
    if directory.is_file():
        return directory
    if (directory / ARCHIVE).is_file():
        check_md5(directory / ARCHIVE, MD5)
        return directory / ARCHIVE
    if (directory / _ROOT).is_dir():
        return directory / _ROOT
    raise NsoptError(
        f"tiny-imagenet is not in {directory}: put {ARCHIVE} (md5 {MD5}) there, or run "
        "`nsopt data fetch tiny-imagenet`"
    )


def _load(path: Path, image_size: int) -> ImageData:
    with open_place(path) as place:
        root = place / _ROOT if (place / _ROOT).is_dir() else place
        if not (root / "train").is_dir() or not (root / "val" / "val_annotations.txt").is_file():
            raise NsoptError(f"{path} does not have the layout of {ARCHIVE}: fetch it again")
        folders = folders_in(root / "train")
        train = {folder.name: images_in(folder / "images", LeftOut()) for folder in folders}
        test = _read_annotations(root / "val", list(train), path)
        empty = [name for name in train if not (train[name] and test[name])]
        if empty:
            raise NsoptError(f"{path}: {empty[0]} has no images in train/ or val/: fetch it again")
        words = _read_words(root, path)
        return ImageData(
            name="tiny-imagenet",
            classes=tuple(words.get(wnid, wnid) for wnid in train),
            train=_decode(train, image_size, path),
            test=_decode(test, image_size, path),
        )


def _decode(files: dict[str, list[Place]], image_size: int, path: Path) -> ImageSet:
    images, damaged = decode(list(files.values()), image_size, LeftOut())
    refuse_damaged(damaged, path, "fetch the data again")
    return images


def _read_annotations(val: Place, wnids: list[str], path: Path) -> dict[str, list[Place]]:
    """Return validation images by class, from `FILE<tab>WNID<tab>box` lines."""
    images: dict[str, list[Place]] = {wnid: [] for wnid in wnids}
    for name, wnid, *_ in _read_rows(val / "val_annotations.txt", path):
        if wnid not in images:
            raise NsoptError(
                f"{path}: val_annotations.txt names {wnid}, which train/ does not have"
            )
        if Path(name).name != name:
            raise NsoptError(f"{path}: val_annotations.txt names {name!r}: not a file in images/")
        images[wnid].append(val / "images" / name)
    return images


def _read_words(root: Place, path: Path) -> dict[str, str]:
    """Return the first name of every class."""
    words = root / "words.txt"
    if not words.is_file():
        return {}
    return {wnid: names.split(",")[0] for wnid, names, *_ in _read_rows(words, path)}


def _read_rows(file: Place, path: Path) -> list[list[str]]:
    """Split each line of a text file at tabs.

    Raises:
        NsoptError: if the file is damaged, or a line has fewer than two parts; it names `path`.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except Exception as error:  # zipfile raises anything for a damaged file
        raise NsoptError(f"{path}: {file.name} cannot be read ({error})") from None
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) < 2:
            raise NsoptError(f"{path}: line {number} of {file.name} is too short")
    return rows
