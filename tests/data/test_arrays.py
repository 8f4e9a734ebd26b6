"""Arrays and datasets of a user."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

import nsopt
from nsopt import ImageData, NsoptError
from tests.conftest import one_line


def draw_pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_arrays_in_both_layouts_give_the_same_data() -> None:
    images, labels = draw_pixels(40, 3, 8, 8), np.arange(40) % 4
    first = ImageData.from_arrays((images, labels), (images[:8], labels[:8]), name="mine")
    last = images.transpose(0, 2, 3, 1)
    other = ImageData.from_arrays((last, labels.tolist()), (last[:8], labels[:8].tolist()))
    assert first.split(0.2).fingerprint == other.split(0.2).fingerprint
    assert (first.name, first.classes) == ("mine", ("0", "1", "2", "3"))
    assert (first.channels, first.image_size) == (3, 8)
    np.testing.assert_array_equal(first.train.images.numpy(), images)


def test_named_classes_and_a_validation_set_are_kept() -> None:
    part = (draw_pixels(10, 1, 8, 8), np.arange(10) % 2)
    data = ImageData.from_arrays(part, part, part, classes=["ant", "bee", "cat"], mirror=False)
    assert data.classes == ("ant", "bee", "cat")
    assert data.validation is not None
    assert not data.mirror


GOOD = (draw_pixels(10, 3, 8, 8), np.arange(10) % 2)


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ((GOOD[0] / 255, GOOD[1]), {}, "train images must be uint8, from 0 to 255, not float64"),
        ((GOOD[0][:, :2], GOOD[1]), {}, "of 1 or 3 channels, not 10x2x8x8"),
        ((GOOD[0][:, :, :5], GOOD[1]), {}, "square, of 1 or 3 channels, not 10x3x5x8"),
        ((GOOD[0][0], GOOD[1]), {}, "not 3x8x8"),
        ((GOOD[0], GOOD[1][:9]), {}, "train has 10 images and 9 labels"),
        ((GOOD[0], GOOD[1] * 0.5), {}, "train labels must be integers"),
        ((GOOD[0], GOOD[1][:, None]), {}, r"must be integers \(N,\), not int64 10x1"),
        ((GOOD[0], GOOD[1] - 1), {}, "train labels must be at least 0, got -1"),
        (GOOD, {"name": "../other"}, "name of a data set must be a word without '/'"),
        ((GOOD[0][:, :, :4, :4], GOOD[1]), {}, "test images are 3x8x8, train images 3x4x4"),
        (GOOD, {"classes": ["one"]}, "labels go up to 1: give 2 class names, not 1"),
        ((GOOD[0], (GOOD[1] - 1).astype(np.uint8)), {}, "labels go up to 255, but only 3 "),
        ((GOOD[0], (GOOD[1] - 1).astype(np.uint32)), {}, "labels go up to 4294967295: number"),
        ((GOOD[0], (GOOD[1] - 1).astype(np.uint64)), {}, f"labels go up to {2**64 - 1}: number"),
        ((GOOD[0], GOOD[1] * 10**7), {}, "labels go up to 10000000, .*or give their names"),
        (
            (GOOD[0], GOOD[1] * 10**7),
            {"classes": "ab"},
            "classes must be a list of names, not 'ab'",
        ),
        ((GOOD[0], GOOD[1]), {"classes": 5}, "classes must be a list of names, not 5"),
        (GOOD[0], {}, r"train must be a pair \(images, labels\), not ndarray: give from_arrays"),
        (None, {}, r"train must be a pair \(images, labels\), not NoneType"),
        (([[1], [1, 2]], GOOD[1]), {}, r"train is not an array \(setting an array element"),
    ],
)
def test_invalid_arrays_raise_an_error(train: Any, options: Any, message: str) -> None:
    with one_line(message):
        ImageData.from_arrays(train, GOOD, **options)


class Pictures(Dataset):
    """A dataset like torchvision's: PIL images, and the names of classes."""

    classes = ("ant", "bee")

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), index % 2


def test_datasets_of_pil_images_and_of_tensors_are_read() -> None:
    images = draw_pixels(12, 8, 8, 3)
    data = ImageData.from_dataset(Pictures(images), Pictures(images[:4]))
    np.testing.assert_array_equal(data.train.images.numpy(), images.transpose(0, 3, 1, 2))
    assert data.classes == ("ant", "bee")
    floats = torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255
    tensors = TensorDataset(floats, torch.arange(12) % 2)
    again = ImageData.from_dataset(tensors, tensors)
    np.testing.assert_array_equal(again.train.images, data.train.images)
    grey = ImageData.from_dataset(Pictures(images[..., 0]), Pictures(images[:4, ..., 0]))
    assert grey.channels == 1


def test_the_colours_of_an_image_with_a_palette_are_read() -> None:
    grey = Image.fromarray(draw_pixels(8, 8))
    items = [(grey.convert("P"), index % 2) for index in range(4)]
    data = ImageData.from_dataset(items, items)
    assert data.channels == 3
    np.testing.assert_array_equal(data.train.images[0, 1], np.asarray(grey))


def test_a_single_training_image_is_refused() -> None:
    images, labels = draw_pixels(20, 1, 32, 32), np.arange(20) % 2
    many = images, labels
    data = ImageData.from_arrays((images[:1], labels[:1]), many, many)
    arch = nsopt.get_architecture("vgg11", 2, in_channels=1)
    with pytest.raises(NsoptError, match="training needs at least two images"):
        nsopt.train(arch, [4] * 8, data, nsopt.TrainSettings(epochs=1, device="cpu"))


def test_names_of_classes_may_be_an_array() -> None:
    data = ImageData.from_arrays(GOOD, GOOD, classes=np.array(["cat", "dog"]))
    assert data.classes == ("cat", "dog")


def test_invalid_datasets_raise_an_error() -> None:
    normalised = TensorDataset(torch.randn(4, 3, 8, 8), torch.arange(4))
    with pytest.raises(NsoptError, match="train images have floats outside 0 to 1"):
        ImageData.from_dataset(normalised, normalised)
    with pytest.raises(NsoptError, match="train images must be of one size: found none"):
        ImageData.from_dataset(TensorDataset(torch.zeros(0, 3, 8, 8), torch.zeros(0)), normalised)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([(GOOD[0][0], 0.5)], r"train labels must be integers, not 0\.5"),
        ([(GOOD[0][0], torch.tensor([0, 1]))], r"train labels must be integers, not tensor\("),
        ([(GOOD[0][0], 2**200)], "train labels must be integers"),
        ([(GOOD[0][0], 2**64 - 1)], f"train labels go up to {2**64 - 1}: number"),
        ([GOOD[0][0]], "item 0 of train must be an image and its label, not ndarray"),
        ([(torch.full((3, 8, 8), 200.0), 0)], "floats outside 0 to 1, or NaN: divide by 255"),
        (
            [(torch.full((3, 8, 8), torch.nan), 0)],
            "train images have floats outside 0 to 1, or NaN",
        ),
        (5, "train must be a dataset with a length, .* not int"),
        (iter([]), "train must be a dataset with a length"),
    ],
)
def test_invalid_items_of_datasets_raise_an_error(items: Any, message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        ImageData.from_dataset(items, [(GOOD[0][0], 0)])


def test_classes_that_are_numbered_from_1_are_refused() -> None:
    part = GOOD[0], GOOD[1] + 1
    with pytest.raises(
        NsoptError, match="labels go up to 2, but only 2 different ones occur: number"
    ):
        ImageData.from_arrays(part, part)
    named = ImageData.from_arrays(part, part, classes=["none", "ant", "bee"])
    assert len(named.classes) == 3


def test_a_thousand_classes_need_not_all_occur() -> None:
    images = draw_pixels(400, 1, 2, 2)
    part = images, np.random.default_rng(0).integers(0, 1000, 400)
    assert len(ImageData.from_arrays(part, part).classes) > 900
    few = images[:2], np.array([0, 99])
    assert len(ImageData.from_arrays(few, few).classes) == 100
    names = [str(i) for i in range(1000)]
    assert len(ImageData.from_arrays(few, few, classes=names).classes) == 1000
