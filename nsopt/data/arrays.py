"""Images that a user has already: arrays, or data sets of PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nsopt.data.images import ImageData, ImageSet
from nsopt.errors import NsoptError

Labelled = tuple[ArrayLike, ArrayLike]
_CHANNELS = (1, 3)


def from_arrays(
    train: Labelled,
    test: Labelled,
    validation: Labelled | None = None,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    mirror: bool = True,
) -> ImageData:
    """A data set of images and labels that are in memory.

    train, test, validation: images uint8 (N, C, H, W) or (N, H, W, C) with C = 1 or 3 and H = W,
    and labels, integers from 0 (N,). classes: their names, by default the numbers; name: of the
    data in the names of studies; mirror: whether a mirrored image is as good.

    Raises NsoptError for images or labels of another kind, or that do not match.
    """
    parts = {"train": train, "test": test} | ({"validation": validation} if validation else {})
    sets = {part: _image_set(part, *pair) for part, pair in parts.items()}
    shape = sets["train"].images.shape[1:]
    for part, images in sets.items():
        if images.images.shape[1:] != shape:
            raise NsoptError(
                f"{part} images are {_shape(images.images.shape[1:])}, train images {_shape(shape)}"
            )
    count = 1 + max(int(images.labels.max()) for images in sets.values())
    names = tuple(classes) if classes is not None else tuple(str(i) for i in range(max(2, count)))
    if count > len(names):
        raise NsoptError(f"labels go up to {count - 1}, and {len(names)} classes are named")
    return ImageData(name, names, sets["train"], sets["test"], sets.get("validation"), mirror)


def from_dataset(
    train: Any,
    test: Any,
    validation: Any = None,
    classes: Sequence[str] | None = None,
    name: str = "dataset",
    mirror: bool = True,
) -> ImageData:
    """A data set of `torch.utils.data.Dataset`s, read once; the rest as for `from_arrays`.

    An item is an image and its label. An image is a PIL image, a uint8 array or tensor, or a float
    tensor from 0 to 1, as torchvision's ToTensor makes them.
    """
    named = classes or getattr(train, "classes", None)
    pairs = [_read(part, data) for part, data in (("train", train), ("test", test))]
    own = _read("validation", validation) if validation is not None else None
    return from_arrays(pairs[0], pairs[1], own, named, name, mirror)


def _image_set(part: str, images: ArrayLike, labels: ArrayLike) -> ImageSet:
    pixels, classes = np.asarray(images), np.asarray(labels)
    if pixels.dtype != np.uint8:
        raise NsoptError(f"{part} images must be uint8, from 0 to 255, not {pixels.dtype}")
    if pixels.ndim == 4 and pixels.shape[1] not in _CHANNELS and pixels.shape[3] in _CHANNELS:
        pixels = pixels.transpose(0, 3, 1, 2)
    square = (
        pixels.ndim == 4 and pixels.shape[1] in _CHANNELS and pixels.shape[2] == pixels.shape[3]
    )
    if not square:
        raise NsoptError(
            f"{part} images must be (N, C, H, W) or (N, H, W, C), square, of 1 or 3 channels, "
            f"not {_shape(np.shape(images))}"
        )
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise NsoptError(f"{part} labels must be integers (N,), not {classes.dtype}")
    if len(pixels) != len(classes) or not len(pixels):
        raise NsoptError(f"{part} has {len(pixels)} images and {len(classes)} labels")
    if classes.min() < 0:
        raise NsoptError(f"{part} labels must be at least 0, got {classes.min()}")
    return ImageSet(
        torch.from_numpy(np.ascontiguousarray(pixels)),
        torch.from_numpy(classes.astype(np.int64)),
    )


def _read(part: str, data: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = [], []
    for index in range(len(data)):
        image, label = data[index]
        images.append(_pixels(part, image))
        labels.append(int(label))
    if not images or len({image.shape for image in images}) > 1:
        found = ", ".join(sorted({_shape(image.shape) for image in images})[:3]) or "none"
        raise NsoptError(f"{part} images must be of one size: found {found}")
    return np.stack(images), np.array(labels, dtype=np.int64)


def _pixels(part: str, image: Any) -> NDArray[np.uint8]:
    """An image as uint8, (H, W, C) or (C, H, W)."""
    if isinstance(image, Tensor) and image.is_floating_point():
        if not 0 <= float(image.min()) <= float(image.max()) <= 1:
            raise NsoptError(
                f"{part} images are floats beyond 0 to 1: leave their normalisation out"
            )
        image = (image * 255).round().to(torch.uint8)
    pixels = np.asarray(image)
    result: NDArray[np.uint8] = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return result


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)
