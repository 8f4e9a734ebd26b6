"""Read images from arrays and PyTorch data sets of the user."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsopt.errors import NsoptError, short_reason, shorten

_CHANNELS = (1, 3)
_FEW_CLASSES, _MOST_GAPS = 100, 10  # a higher label is a mistake if 9 of 10 below it are missing
_HIGHEST = 2**31 - 1  # larger labels are mistakes, such as -1 as an unsigned integer


def read_arrays(part: str, pair: Any) -> tuple[Tensor, Tensor]:
    """Return images uint8 (N, C, H, W) and labels int64 (N,) of a part of a data set.

    Args:
        pair: images, uint8 (N, C, H, W) or (N, H, W, C), and their labels, integers (N,).
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise NsoptError(
            f"{part} must be a pair (images, labels), not {type(pair).__name__}: give "
            "from_arrays((images, labels), (test_images, test_labels))"
        )
    pixels, classes = _convert_array(part, pair[0]), _convert_array(part, pair[1])
    if pixels.dtype != np.uint8:
        raise NsoptError(
            f"{part} images must be uint8, from 0 to 255, not {pixels.dtype}: scale numbers from 0 "
            "to 1 with (255 * images).round().astype('uint8')"
        )
    if pixels.ndim == 4 and pixels.shape[1] not in _CHANNELS and pixels.shape[3] in _CHANNELS:
        pixels = pixels.transpose(0, 3, 1, 2)
    square = (
        pixels.ndim == 4 and pixels.shape[1] in _CHANNELS and pixels.shape[2] == pixels.shape[3]
    )
    if not square:
        raise NsoptError(
            f"{part} images must be (N, C, H, W) or (N, H, W, C), square, of 1 or 3 channels, "
            f"not {format_shape(_convert_array(part, pair[0]).shape)}"
        )
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        given = f"{classes.dtype} {format_shape(classes.shape)}"
        raise NsoptError(f"{part} labels must be integers (N,), not {given}")
    if len(pixels) != len(classes) or not len(pixels):
        raise NsoptError(f"{part} has {len(pixels)} images and {len(classes)} labels")
    if classes.min() < 0:
        raise NsoptError(f"{part} labels must be at least 0, got {classes.min()}")
    if classes.max() > _HIGHEST:
        raise NsoptError(
            f"{part} labels go up to {classes.max()}: number classes from 0, and check them"
        )
    return (
        torch.from_numpy(np.ascontiguousarray(pixels)),
        torch.from_numpy(classes.astype(np.int64)),
    )


def read_dataset(part: str, data: Any) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Return all images and labels of a `torch.utils.data.Dataset`.

    An item is an image and its label. An image is a PIL image, a uint8 array or tensor, or a float
    tensor from 0 to 1, as from torchvision's ToTensor.
    """
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise NsoptError(
            f"{part} must be a dataset with a length, whose items are an image and its label, not "
            f"{type(data).__name__}"
        )
    images, labels = [], []
    for index in range(len(data)):
        item = data[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise NsoptError(
                f"item {index} of {part} must be an image and its label, not {type(item).__name__}"
            )
        images.append(_convert_pixels(part, item[0]))
        try:
            labels.append(operator.index(item[1]))
        except (TypeError, RuntimeError):
            raise NsoptError(f"{part} labels must be integers, not {shorten(item[1])}") from None
    if not images or len({image.shape for image in images}) > 1:
        shapes = ", ".join(sorted({format_shape(image.shape) for image in images})[:3]) or "none"
        raise NsoptError(f"{part} images must be of one size: found {shapes}")
    return np.stack(images), np.array(labels)


def name_classes(labels: Sequence[Tensor], classes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes, by default numbers. Raises NsoptError for odd labels."""
    classes = classes.tolist() if isinstance(classes, np.ndarray) else classes
    if classes is not None and (isinstance(classes, str) or not isinstance(classes, Sequence)):
        raise NsoptError(f"classes must be a list of names, not {shorten(classes)}")
    highest = max(int(part.max()) for part in labels)
    different = len(torch.cat(list(labels)).unique())
    from_one = different == highest and all(part.min() > 0 for part in labels)
    if not classes and (from_one or highest >= max(_FEW_CLASSES, _MOST_GAPS * different)):
        raise NsoptError(
            f"labels go up to {highest}, but only {different} different ones occur: number the "
            "classes from 0, or give their names as classes="
        )
    names = tuple(map(str, classes or range(max(2, highest + 1))))
    if highest >= len(names):
        raise NsoptError(
            f"labels go up to {highest}: give {highest + 1} class names, not {len(names)}"
        )
    return names


def _convert_pixels(part: str, image: Any) -> NDArray[np.uint8]:
    """Convert an image to uint8, (H, W, C) or (C, H, W)."""
    if isinstance(image, Tensor) and image.is_floating_point():
        if not ((image >= 0) & (image <= 1)).all():
            raise NsoptError(
                f"{part} images have floats outside 0 to 1, or NaN: divide by 255, or remove their "
                "normalisation"
            )
        image = (image * 255).round().to(torch.uint8)
    if getattr(image, "mode", "") == "P":  # its pixels are indices into a palette
        image = image.convert("RGB")
    pixels = _convert_array(part, image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _convert_array(part: str, values: Any) -> NDArray[Any]:
    """Convert to an array; a tensor may be on any device."""
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NsoptError(
            f"{part} is not an array ({short_reason(error)}): give images and labels"
        ) from None


def read_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of pixels from 0 to 1.

    Raises NsoptError for numbers that are not such.
    """
    if mean is None or std is None or not len(mean) == len(std) == channels:
        raise NsoptError(f"give mean= and std=, each with a number for every channel ({channels})")
    if not all(0 < value < math.inf for value in std):
        raise NsoptError("std must be above 0, and finite")
    if not all(0 <= value <= 1 for value in mean):
        raise NsoptError("mean must be of pixels from 0 to 1: divide by 255 if it is of 0 to 255")
    return tuple(mean), tuple(std)


def format_shape(shape: Sequence[int]) -> str:
    """Format a shape, such as `3x32x32`."""
    return "x".join(str(size) for size in shape)
