"""Names of data sets, and a description of the images of a study. No torch here."""

from dataclasses import dataclass
from pathlib import Path

from nsopt.errors import NsoptError, unknown_name

FOLDER_PREFIX = "folder-"  # begins the names of data from `folder:PATH`
STAND_IN = "tiny-imagenet-100-32px"
DESCRIPTIONS = {
    "digits": "1,797 handwritten digits, 10 classes, 32x32, included in scikit-learn",
    "cifar10": "60,000 photographs, 10 classes, 32x32, read by torchvision",
    "cifar100": "60,000 photographs, 100 classes, 32x32, read by torchvision",
    "tiny-imagenet": "110,000 photographs, 200 classes, 64x64, original zip or folder",
    STAND_IN: "first 100 classes of Tiny ImageNet, 32x32: the shape of CIFAR-100",
    "folder:PATH": "train/ and test/ (or val/) of class folders, or class folders with split=0.8",
}
DATA_SETS = tuple(DESCRIPTIONS)


def is_folder(name: str) -> bool:
    """Return whether a name is `folder:PATH`."""
    return name.startswith("folder:")


def folder_path(name: str) -> Path:
    """Return PATH of `folder:PATH`. Raises NsoptError for the home folder of an unknown user."""
    try:
        return Path(name.removeprefix("folder:")).expanduser()
    except RuntimeError:
        raise NsoptError(f"{name} names the home of no user: give another path") from None


def check_name(name: str) -> None:
    """Raise NsoptError for a name that `load_data` does not know."""
    if name not in DATA_SETS and not is_folder(name):
        if name and Path(name).is_dir():
            raise NsoptError(f"{name} is a folder: write folder:{name}")
        raise unknown_name("data set", name, DATA_SETS)
    if name == "folder:":
        raise NsoptError("folder: names no folder: give folder:PATH, as in folder:photographs")


@dataclass(frozen=True)
class Subset:
    """The first `classes` classes, and their first `per_class` training images; None for all."""

    classes: int | None = None
    per_class: int | None = None


@dataclass(frozen=True)
class Source:
    """The arguments of `load_data`, except the directory, and the normalisation of the images.

    Attributes:
        mean: mean of each channel of pixels from 0 to 1; None for that of the training images.
        std: standard deviation, likewise.
        mirror: whether training may mirror the images, unless the data set forbids it.
    """

    name: str
    image_size: int | None = None
    subset: Subset = Subset()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    split: float | None = None
    skip_corrupt: bool = False
    mirror: bool = True
