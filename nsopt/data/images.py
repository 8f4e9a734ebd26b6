"""Labelled images in memory, and their split into training, validation and test images.

B, N: numbers of images; C, H, W: channels, height and width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from nsopt.data.arrays import (
    format_shape,
    name_classes,
    read_arrays,
    read_dataset,
    read_normalisation,
)
from nsopt.data.source import Source, Subset
from nsopt.errors import NsoptError
from nsopt.inputs import checksum_of
from nsopt.isolation import public
from nsopt.settings import check_name

PIXEL_RANGE = 255.0
_IMAGES_AT_ONCE = 1024
Labelled = tuple[ArrayLike, ArrayLike]
_SPLIT_SEED = 0  # one split for all seeds and methods, so that they can be compared


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N labelled images: all M images of a stored tensor, or some of them.

    Attributes:
        stored: uint8 (M, C, H, W).
        labels: int64 (N,).
        rows: int64 (N,), indices of the stored images that belong to this set; None for all.
    """

    stored: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """All images, uint8 (N, C, H, W): a copy unless `rows` is None."""
        return self.stored if self.rows is None else self.stored[self.rows]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""
        return tuple(self.stored.shape[1:])

    def pixels(self, where: slice | Tensor) -> Tensor:
        """Return the images at these indices, uint8 (B, C, H, W)."""
        return self.stored[where if self.rows is None else self.rows[where]]

    def batch(self, where: slice | Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images uint8 (B, C, H, W) and labels int64 (B,) at these indices, on `device`.

        The copy from the CPU to a GPU is asynchronous.
        """
        return _move(self.pixels(where), device), _move(self.labels[where], device)

    def parts(self, at_once: int = _IMAGES_AT_ONCE) -> Iterator[Tensor]:
        """Yield the images in order, at most `at_once` at a time."""
        for start in range(0, len(self), at_once):
            yield self.pixels(slice(start, start + at_once))

    def checksum(self) -> int:
        """Return a checksum of labels and images."""
        return checksum_of(chain([self.labels], self.parts()))

    def first_of_each(self, count: int) -> Self:
        """Return the first `count` images of every class, in order."""
        rows = [
            (self.labels == label).nonzero()[:count, 0] for label in self.labels.unique().tolist()
        ]
        return self.take(torch.cat(rows).sort().values)

    def take(self, indices: ArrayLike) -> Self:
        """Return the images at these indices, without a copy."""
        where = torch.as_tensor(indices, dtype=torch.int64, device=self.labels.device)
        rows = where if self.rows is None else self.rows[where]
        return type(self)(self.stored, self.labels[where], rows)

    def of_classes(self, count: int) -> Self:
        """Return the images of the first `count` classes."""
        if count > int(self.labels.max()):
            return self
        return self.take((self.labels < count).nonzero()[:, 0])

    def to(self, device: torch.device) -> Self:
        """Move these images to `device`."""
        if device == self.stored.device:
            return self
        return type(self)(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set.

    Attributes:
        name: its name in the names of studies.
        classes: names of the classes; a label is an index into them.
        train: training images.
        test: test images, used only for reports.
        validation: validation images; None to hold out some of the training images.
        mirror: whether training may mirror images (not digits, for example).
        mean: mean per channel of pixels from 0 to 1, for normalisation; None for the mean of the
            training images.
        std: standard deviation, likewise.
        skipped: what was left out: damaged images, each with the reason, and counts by reason.
        source: how other processes load it again; None for images that nsopt did not load.
        trainer: `trainer(model, data, context)` returns the trained network: used in place of
            nsopt's own trainings, see `nsopt.Task`.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    validation: ImageSet | None = None
    mirror: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    skipped: tuple[str, ...] = ()
    source: Source | None = None
    trainer: Callable[[Any, Self, Any], Any] | None = None

    def __repr__(self) -> str:
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        counts = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part)
        kind = f"{format_shape(self.train.shape)} in {len(self.classes)} classes"
        rest = f"; left out: {'; '.join(self.skipped)}" if self.skipped else ""
        return f"<{self.name}: {counts} images of {kind}{rest}>"

    @property
    def image_size(self) -> int:
        return self.train.shape[-1]

    @property
    def channels(self) -> int:
        return self.train.shape[0]

    @classmethod
    @public
    def from_arrays(
        cls,
        train: Labelled,
        test: Labelled,
        validation: Labelled | None = None,
        classes: Sequence[str] | None = None,
        name: str = "arrays",
        mirror: bool = True,
    ) -> Self:
        """Make a data set of images and labels in memory.

        Args:
            train: a pair of images and labels. Images are uint8 (N, C, H, W) or (N, H, W, C),
                square, with C = 1 or 3; labels are integers from 0, (N,).
            test: the same for test images.
            validation: the same for validation images, or None.
            classes: names of the classes; by default their numbers.
            name: its name in the names of studies.
            mirror: whether training may mirror images.

        Raises:
            NsoptError: for invalid images or labels, or a name with `/`.

        Examples:
            >>> images, labels = np.zeros((20, 3, 32, 32), np.uint8), np.arange(20) % 10
            >>> nsopt.ImageData.from_arrays((images, labels), (images, labels)).classes
        """
        check_name("data set", name)
        parts = {"train": train, "test": test}
        if validation is not None:
            parts["validation"] = validation
        sets = {part: ImageSet(*read_arrays(part, pair)) for part, pair in parts.items()}
        shape = sets["train"].shape
        for part, images in sets.items():
            if images.shape != shape:
                raise NsoptError(
                    f"{part} images are {format_shape(images.shape)}, "
                    f"train images {format_shape(shape)}"
                )
        names = name_classes([images.labels for images in sets.values()], classes)
        return cls(name, names, sets["train"], sets["test"], sets.get("validation"), mirror)

    @classmethod
    @public
    def from_dataset(
        cls,
        train: Any,
        test: Any,
        validation: Any = None,
        classes: Sequence[str] | None = None,
        name: str = "dataset",
        mirror: bool = True,
    ) -> Self:
        """Read `torch.utils.data.Dataset`s into memory.

        Args:
            train: its items are an image (PIL, uint8, or float from 0 to 1) and a label.
            test: the same for test images.
            validation: the same for validation images, or None.
            classes: names of the classes; by default `train.classes` if it exists.
            name: its name in the names of studies.
            mirror: whether training may mirror images.

        Raises:
            NsoptError: for invalid images or labels.

        Examples:
            >>> train, test = torchvision.datasets.FakeData(200), torchvision.datasets.FakeData(50)
            >>> nsopt.ImageData.from_dataset(train, test).image_size
        """
        validation = None if validation is None else read_dataset("validation", validation)
        labelled = read_dataset("train", train), read_dataset("test", test), validation
        named = getattr(train, "classes", None) if classes is None else classes
        return cls.from_arrays(*labelled, named, name, mirror)

    @public
    def normalised_by(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> Self:
        """Return the same images, normalised as a trained network expects them.

        Args:
            mean: mean of each channel of pixels from 0 to 1, as for
                `torchvision.transforms.Normalize`; None, with `std`, for the statistics of the
                training images.
            std: standard deviation of each channel.

        Raises:
            NsoptError: if only one of them is given, the wrong number of values, or a mean that is
                not of pixels from 0 to 1.
        """
        if mean is None and std is None:
            own_mean, own_std = None, None
        else:
            own_mean, own_std = read_normalisation(mean, std, self.channels)
        source = self.source and replace(self.source, mean=own_mean, std=own_std)
        return replace(self, mean=own_mean, std=own_std, source=source)

    @public
    def subset(self, classes: int | None, per_class: int | None) -> Self:
        """Return the first `classes` classes with their first `per_class` training images.

        None keeps all. All test and validation images of these classes stay. The name of the result
        shows the subset.
        """
        if classes is not None and not 2 <= classes <= len(self.classes):
            raise NsoptError(f"classes= must be from 2 to {len(self.classes)}, got {classes}")
        if per_class is not None and per_class < 1:
            raise NsoptError(f"per_class= must be at least 1, got {per_class}")
        kept = classes or len(self.classes)
        train, test = self.train.of_classes(kept), self.test.of_classes(kept)
        validation = None if self.validation is None else self.validation.of_classes(kept)
        parts = {"training": train, "test": test, "validation": validation}
        for part, images in parts.items():
            if images is not None and not len(images):
                raise NsoptError(f"no {part} images are of the first {kept} classes: keep more")
        if per_class is not None:
            train = train.first_of_each(per_class)
        suffix = f"-{classes}classes" if classes else ""
        suffix += f"-{per_class}each" if per_class else ""
        return replace(
            self,
            source=self.source and replace(self.source, subset=Subset(classes, per_class)),
            name=self.name + suffix,
            classes=self.classes[:kept],
            train=train,
            test=test,
            validation=validation,
        )

    def split(self, val_fraction: float) -> "Splits":
        """Split a stratified `val_fraction` off the training set, unless there is a validation set.

        The split depends only on the data, never on a seed.
        """
        train, validation = self.train, self.validation
        if validation is None:
            train, validation = _hold_out(self.train, val_fraction, len(self.classes))
        if self.mean is not None and self.std is not None:
            mean, std = (PIXEL_RANGE * torch.tensor(values) for values in (self.mean, self.std))
        else:
            mean, std = _compute_pixel_statistics(train)
            std = std.clamp(min=1.0)
        is_given = self.mean is not None
        return Splits(train, validation, self.test, mean, std, self.mirror, is_given)


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test images.

    Attributes:
        mean: mean of each channel of pixels from 0 to 255, (C,), on the device of the batches.
        std: standard deviation, likewise.
        mirror: whether training may mirror images.
        is_normalised_by_user: whether the user gave mean and std.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    mean: Tensor
    std: Tensor
    mirror: bool
    is_normalised_by_user: bool = False

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel of pixels from 0 to 1."""
        mean, std = (tuple((values / PIXEL_RANGE).tolist()) for values in (self.mean, self.std))
        return mean, std

    def with_train_images(self, count: int | None) -> Self:
        """Keep about `count` training images, equally many of every class; None keeps all."""
        if count is None or count >= len(self.train):
            return self
        per_class = -(-count // len(self.train.labels.unique()))
        return replace(self, train=self.train.first_of_each(per_class))

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What identifies these splits: sizes, checksums, and how training changes the images.

        It has all keys whatever the user chose, so that two runs never agree by a missing one.
        """
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        is_given = self.is_normalised_by_user
        return {name: len(part) for name, part in parts.items()} | {
            "mean": self.mean.tolist() if is_given else None,
            "std": self.std.tolist() if is_given else None,
            "mirror": self.mirror,
            "crc32": self.train.checksum(),
            "validation_crc32": self.validation.checksum(),
            "test_crc32": self.test.checksum(),
        }


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _compute_pixel_statistics(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, (C,) each, from exact sums."""
    total, squares = torch.zeros(2, images.shape[0], dtype=torch.float64)
    for some in images.parts():
        values = some.double()
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    pixels = len(images) * math.prod(images.shape[1:])
    mean = total / pixels
    std = ((squares - pixels * mean.square()).clamp(min=0) / (pixels - 1)).sqrt()
    return mean.to(torch.get_default_dtype()), std.to(torch.get_default_dtype())


def _hold_out(train: ImageSet, fraction: float, classes: int) -> tuple[ImageSet, ImageSet]:
    from sklearn.model_selection import train_test_split  # noqa: PLC0415  (0.6 s to import)

    try:
        keep, hold = train_test_split(
            np.arange(len(train)),
            test_size=round(fraction * len(train)),
            random_state=_SPLIT_SEED,
            stratify=train.labels.numpy(),
        )
    except ValueError as error:
        raise NsoptError(
            f"{len(train)} training images of {classes} classes are too few to hold out a "
            f"validation fraction of {fraction} ({error}): add images, or give a validation set"
        ) from None
    return train.take(np.sort(keep)), train.take(np.sort(hold))
