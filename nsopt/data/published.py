"""CIFAR (Krizhevsky, 2009) and Tiny ImageNet (Stanford CS231n), as they were published.

Tiny ImageNet: train/WNID/images/*.JPEG; val/images/*.JPEG with val_annotations.txt. The test images
have no labels, so val/ is the test set, as in the paper, and train/ gives the validation images.
"""

import hashlib
import urllib.error
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from nsopt.data.archive import opened
from nsopt.data.images import ImageData, ImageSet
from nsopt.data.pictures import LeftOut, decode, folders_in, images_in, refuse_damaged
from nsopt.errors import NsoptError, short_reason
from nsopt.torchvision_import import import_torchvision

_CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_ARCHIVE = "tiny-imagenet-200.zip"
_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_URL = f"http://cs231n.stanford.edu/{_ARCHIVE}"
_ROOT = "tiny-imagenet-200"


def load_cifar(name: str, directory: Path) -> ImageData:
    """Load `cifar10` or `cifar100`: 50,000 training and 10,000 test images, 32x32.

    torchvision unpacks the published archive in `directory`, or downloads it, and checks all
    checksums. Raises NsoptError if that fails; the message says what to do.
    """
    reader = getattr(import_torchvision("datasets"), _CIFAR[name])
    if (directory / reader.filename).is_file():
        _check_md5(directory / reader.filename, reader.tgz_md5)
    try:
        train = reader(str(directory), train=True, download=True)
        test = reader(str(directory), train=False)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):  # it stays unless it is empty
            directory.rmdir()
        raise NsoptError(
            f"{name} is not complete in {directory} and cannot be downloaded "
            f"({short_reason(error)}): put {reader.filename} (md5 {reader.tgz_md5}) there"
        ) from None
    return ImageData(name, tuple(train.classes), _convert(train), _convert(test))


def _convert(reader: Any) -> ImageSet:
    images = torch.from_numpy(reader.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(reader.targets, dtype=torch.int64))


def fetch_tiny_imagenet(directory: Path) -> None:
    """Download the archive and check it. Raises NsoptError if the download fails."""
    utils: Any = import_torchvision("datasets").utils
    try:
        utils.download_url(_URL, str(directory), _ARCHIVE, _MD5)
    except (OSError, RuntimeError, urllib.error.URLError) as error:
        raise NsoptError(
            f"tiny-imagenet cannot be downloaded ({short_reason(error)}): put {_ARCHIVE} "
            f"(md5 {_MD5}) into {directory}"
        ) from None


def load_tiny_imagenet(directory: Path, image_size: int) -> ImageData:
    """Load Tiny ImageNet, resized to `image_size`.

    Args:
        directory: contains the published zip or its unpacked folder, or is such a zip.
    """
    path = _find(directory)
    with opened(path) as folder:
        root = folder / _ROOT if (folder / _ROOT).is_dir() else folder
        if not (root / "train").is_dir() or not (root / "val/val_annotations.txt").is_file():
            raise NsoptError(f"{path} does not have the layout of {_ARCHIVE}: fetch it again")
        train = {place.name: images_in(place, LeftOut()) for place in folders_in(root / "train")}
        test = _read_annotations(root / "val", list(train), path)
        empty = [name for name in train if not (train[name] and test[name])]
        if empty:
            raise NsoptError(f"{path}: {empty[0]} has no images in train/ or val/: fetch it again")
        words = root / "words.txt"
        names = dict(row[:2] for row in _read_rows(words, path)) if words.is_file() else {}
        return ImageData(
            name="tiny-imagenet",
            classes=tuple(names.get(wnid, wnid).split(",")[0] for wnid in train),
            train=_decode(train, image_size, path),
            test=_decode(test, image_size, path),
        )


def _decode(files: dict[str, list[Path]], image_size: int, path: Path) -> ImageSet:
    images, damaged = decode(list(files.values()), image_size, LeftOut())
    refuse_damaged(damaged, path, "fetch the data again")
    return images


def _find(directory: Path) -> Path:
    if directory.is_file():
        return directory
    if (directory / _ARCHIVE).is_file():
        _check_md5(directory / _ARCHIVE, _MD5)
        return directory / _ARCHIVE
    if (directory / _ROOT).is_dir():
        return directory / _ROOT
    raise NsoptError(
        f"tiny-imagenet is not in {directory}: put {_ARCHIVE} (md5 {_MD5}) there, or run "
        "`nsopt data fetch tiny-imagenet`"
    )


def _check_md5(archive: Path, expected: str) -> None:
    """Raise NsoptError if `archive` does not have the checksum `expected`."""
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != expected:
        raise NsoptError(
            f"{archive} is damaged (md5 {digest}, not {expected}): delete it and fetch it again"
        )


def _read_annotations(val: Path, wnids: list[str], path: Path) -> dict[str, list[Path]]:
    """Return validation images by class, from `FILE<tab>WNID<tab>box` lines."""
    images: dict[str, list[Path]] = {wnid: [] for wnid in wnids}
    for name, wnid, *_ in _read_rows(val / "val_annotations.txt", path):
        if wnid not in images:
            raise NsoptError(
                f"{path}: val_annotations.txt names {wnid}, which train/ does not have: fetch it "
                "again"
            )
        if Path(name).name != name:
            raise NsoptError(
                f"{path}: val_annotations.txt names {name!r}, not a file in images/: fetch it again"
            )
        images[wnid].append(val / "images" / name)
    return images


def _read_rows(file: Path, path: Path) -> list[list[str]]:
    """Split each line of a text file at tabs.

    Raises:
        NsoptError: if the file is damaged, or a line has fewer than two parts; it names `path`.
    """
    try:
        rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise NsoptError(f"{path}: {file.name} cannot be read ({error}): fetch it again") from None
    for number, row in enumerate(rows, start=1):
        if len(row) < 2:
            raise NsoptError(f"{path}: line {number} of {file.name} is too short: fetch it again")
    return rows
