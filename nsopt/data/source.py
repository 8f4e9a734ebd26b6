"""Which images a study uses, described for any machine."""

from dataclasses import dataclass

FOLDER_PREFIX = "folder-"  # begins the names of data that is not registered


@dataclass(frozen=True)
class Subset:
    """The first `classes` classes, and their first `per_class` training images; None for all."""

    classes: int | None = None
    per_class: int | None = None


@dataclass(frozen=True)
class Source:
    """The arguments of `load_data`, except the directory, and how its images are normalised.

    mean, std: per channel, of pixels from 0 to 1; None for those of the training images.
    split, split_seed, skip_corrupt: of a folder, see `load_data`.
    """

    name: str
    image_size: int | None = None
    subset: Subset = Subset()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    split: float | None = None
    split_seed: int = 0
    skip_corrupt: bool = False
