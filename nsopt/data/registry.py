"""Data sets by name."""

import warnings
from dataclasses import replace
from pathlib import Path

from nsopt.data.folder import load_folder
from nsopt.data.images import ImageData
from nsopt.data.published import (
    fetch_tiny_imagenet,
    load_cifar,
    load_digits,
    load_tiny_imagenet,
)
from nsopt.data.source import DATA_SETS, STAND_IN, Source, Subset, check_name, is_folder
from nsopt.errors import NsoptError, unknown_name
from nsopt.isolation import public

_STAND_IN_CLASSES, _STAND_IN_SIZE = 100, 32


@public
def load_data(
    name: str,
    directory: Path | str = "data",
    image_size: int | None = None,
    subset: Subset | None = None,
    split: float | None = None,
    split_seed: int = 0,
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
        split_seed: decides which images are for training.
        skip_corrupt: whether to leave out damaged images of a folder.

    Returns:
        Training and test images, and validation images if the data set has them.

    Raises:
        NsoptError: if the data is unknown, missing or damaged.

    Examples:
        >>> data = nsopt.load_data("digits")
        >>> photographs = nsopt.load_data("folder:photographs", image_size=64, split=0.8)
    """
    source = Source(
        name, image_size, subset or Subset(), None, None, split, split_seed, skip_corrupt
    )
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
