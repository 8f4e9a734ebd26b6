"""Which images a study uses, in words that another machine understands."""

from dataclasses import dataclass

FOLDER_PREFIX = "folder-"  # of the names of data that are no registered data set


@dataclass(frozen=True)
class Subset:
    """The first `classes` classes and their first `per_class` training images; None for all."""

    classes: int | None = None
    per_class: int | None = None


@dataclass(frozen=True)
class Source:
    """The arguments of `load_data`, but for the directory, and how its images are normalised.

    mean, std: per channel, of pixels from 0 to 1; None for those of the training images.
    """

    name: str
    image_size: int | None = None
    subset: Subset = Subset()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
