"""Data sets by name: digits, CIFAR (Krizhevsky, 2009), Tiny ImageNet (Stanford CS231n), folders.

Tiny ImageNet: train/WNID/images/*.JPEG; val/images/*.JPEG with val_annotations.txt. The test images
have no labels, so val/ is the test set, as in the paper, and train/ gives the validation images.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from nsopt.data.folder import (
    Classes,
    decode,
    folders_in,
    images_in,
    load_folder,
    opened,
    refuse_damaged,
)
from nsopt.data.images import ImageData, ImageSet
from nsopt.data.source import DATA_SETS, STAND_IN, Source, Subset, check_name, is_folder
from nsopt.errors import NsoptError, short_reason, unknown_name
from nsopt.isolation import public
from nsopt.torchvision_import import import_torchvision

_STAND_IN_CLASSES, _STAND_IN_SIZE = 100, 32


@public
def load_data(
    name: str,
    directory: Path | str = "data",
    image_size: int | None = None,
    subset: Subset | None = None,
    split: float | None = None,
    skip_corrupt: bool = False,
) -> ImageData:
    """Load a data set into memory.

    Images of a folder are turned upright as their EXIF data say, and lose their alpha channel.
    Files of a folder that are left out cause a UserWarning that counts them.

    Args:
        name: a name that `nsopt data list` prints, such as `cifar10`, or `folder:PATH`.
        directory: folder of downloaded data sets; for Tiny ImageNet also the path of its zip.
        image_size: side in pixels to which images are resized; only for `digits`, `tiny-imagenet`
            and `folder:PATH`.
        subset: some of its classes and training images; None for all.
        split: for a folder with class folders but without train/ and test/, the share of training
            images in each class; the rest are test images.
        skip_corrupt: whether to leave out damaged images of a folder.

    Returns:
        Training and test images, and validation images if the data set has them.

    Raises:
        NsoptError: if the data is unknown, missing or damaged.

    Examples:
        >>> data = nsopt.load_data("digits")
        >>> photographs = nsopt.load_data("folder:photographs", image_size=64, split=0.8)
    """
    subset = subset or Subset()
    source = Source(name, image_size, subset, split=split, skip_corrupt=skip_corrupt)
    data = load_source(source, Path(directory))
    if data.skipped:
        warnings.warn(f"left out of {name}: {'; '.join(data.skipped)}", stacklevel=3)
    return data


def load_source(source: Source, directory: Path) -> ImageData:
    """Load the images of a study; the caller says what `skipped` names."""
    name = source.name
    check_name(name)
    if source.image_size is not None and source.image_size < 1:
        raise NsoptError(f"an image size must be at least 1 pixel, got {source.image_size}")
    if is_folder(name):
        data = load_folder(source)
    elif source.split is not None or source.skip_corrupt:
        raise NsoptError(f"leave split= and skip_corrupt= out: {name} is no folder")
    else:
        data = _load(name, directory.expanduser(), source.image_size)
    data = data.subset(source.subset.classes, source.subset.per_class)
    data = replace(data, mirror=data.mirror and source.mirror)
    return replace(data.normalised_by(source.mean, source.std), source=source)


def fetch_data(name: str, directory: Path) -> None:
    """Download a data set. Raises NsoptError if that is impossible."""
    if name in ("tiny-imagenet", STAND_IN):
        fetch_tiny_imagenet(directory)
    elif name in ("cifar10", "cifar100"):
        load_cifar(name, directory)
    elif name in DATA_SETS or is_folder(name):
        raise NsoptError(f"{name} needs no download: leave the command out")
    else:
        raise unknown_name("data set", name, DATA_SETS)


def _load(name: str, directory: Path, image_size: int | None) -> ImageData:
    if name == "digits":
        return load_digits(image_size or 32)
    if name == "tiny-imagenet":
        return load_tiny_imagenet(directory, image_size or 64)
    if image_size not in (None, 32):
        raise NsoptError(f"the images of {name} are 32x32: leave image_size= out")
    if name == STAND_IN:
        small = load_tiny_imagenet(directory, _STAND_IN_SIZE).subset(_STAND_IN_CLASSES, None)
        return replace(small, name=STAND_IN)
    return load_cifar(name, directory)


_TEST_FRACTION = 0.25  # of the digits
_CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_ARCHIVE = "tiny-imagenet-200.zip"
_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_URL = f"http://cs231n.stanford.edu/{_ARCHIVE}"
_ROOT = "tiny-imagenet-200"


def load_digits(image_size: int) -> ImageData:
    """Load 1,797 grey 8x8 digits, enlarged to `image_size`; a quarter of them are test images."""
    from sklearn import datasets, model_selection  # noqa: PLC0415  (0.6 s to import)

    digits = datasets.load_digits()
    labels = torch.as_tensor(digits.target, dtype=torch.int64)
    small = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] * (255 / 16)
    large = functional.interpolate(small, size=(image_size, image_size), mode="bilinear")
    everything = ImageSet(large.round().clamp(0, 255).to(torch.uint8), labels)
    train, test = model_selection.train_test_split(
        range(len(labels)), test_size=_TEST_FRACTION, random_state=0, stratify=digits.target
    )
    return ImageData(
        name="digits",
        classes=tuple(str(digit) for digit in digits.target_names),
        train=everything.take(train),
        test=everything.take(test),
        mirror=False,
    )


def load_cifar(name: str, directory: Path) -> ImageData:
    """Load `cifar10` or `cifar100`: 50,000 training and 10,000 test images, 32x32.

    torchvision unpacks the published archive in `directory`, or downloads it, and checks all
    checksums. Raises NsoptError if that fails; the message says what to do.
    """
    reader = getattr(import_torchvision("datasets"), _CIFAR[name])
    with _explain_download(name, directory, reader.filename, reader.tgz_md5):
        train = reader(str(directory), train=True, download=True)
        test = reader(str(directory), train=False)
    return ImageData(name, tuple(train.classes), _convert(train), _convert(test))


def _convert(reader: Any) -> ImageSet:
    images = torch.from_numpy(reader.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(reader.targets, dtype=torch.int64))


def fetch_tiny_imagenet(directory: Path) -> None:
    """Download the archive and check it. Raises NsoptError if the download fails."""
    utils: Any = import_torchvision("datasets").utils
    with _explain_download("tiny-imagenet", directory, _ARCHIVE, _MD5):
        utils.download_url(_URL, str(directory), _ARCHIVE, _MD5)


@contextmanager
def _explain_download(name: str, directory: Path, archive: str, md5: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        with suppress(OSError):  # it stays unless it is empty
            directory.rmdir()
        raise NsoptError(
            f"{name} is not complete in {directory} and cannot be downloaded "
            f"({short_reason(error)}): put {archive} (md5 {md5}) there"
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
        train = {part.name: images_in(part, Counter()) for part in folders_in(root / "train")}
        test: Classes = {wnid: [] for wnid in train}
        try:
            for name, wnid, *_ in _read_rows(root / "val/val_annotations.txt"):
                test[wnid].append(root / "val/images" / name)
            words = root / "words.txt"
            names = {wnid: text for wnid, text, *_ in _read_rows(words)} if words.is_file() else {}
        except (KeyError, ValueError) as error:
            raise NsoptError(
                f"{path}: val_annotations.txt or words.txt is damaged ({short_reason(error)}): "
                "fetch it again"
            ) from None
        empty = [name for name in train if not (train[name] and test[name])]
        if empty:
            raise NsoptError(f"{path}: {empty[0]} has no images in train/ or val/: fetch it again")
        return ImageData(
            name="tiny-imagenet",
            classes=tuple(names.get(wnid, wnid).split(",")[0] for wnid in train),
            train=_decode(train, image_size, path),
            test=_decode(test, image_size, path),
        )


def _decode(files: Classes, image_size: int, path: Path) -> ImageSet:
    images, damaged = decode(list(files.values()), image_size)
    refuse_damaged(damaged, path, "fetch the data again")
    return images


def _find(directory: Path) -> Path:
    archive = directory / _ARCHIVE
    if directory.is_file():
        return directory
    if archive.is_file():
        if not import_torchvision("datasets").utils.check_integrity(str(archive), _MD5):
            raise NsoptError(
                f"{archive} is damaged (its md5 is not {_MD5}): delete it and fetch it again"
            )
        return archive
    if (directory / _ROOT).is_dir():
        return directory / _ROOT
    raise NsoptError(
        f"tiny-imagenet is not in {directory}: put {_ARCHIVE} (md5 {_MD5}) there, or run "
        "`nsopt data fetch tiny-imagenet`"
    )


def _read_rows(file: Path) -> list[list[str]]:
    """Split each line of a text file at tabs."""
    return [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
