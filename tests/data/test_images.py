import dataclasses
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from nsopt import ImageData, NsoptError, load_data
from nsopt.data.augmentation import (
    TrainingBatches,
    cut_windows,
    draw_windows,
    normalise,
)
from nsopt.data.images import ImageSet
from tests.conftest import first_digits


@pytest.fixture(scope="module")
def digits() -> ImageData:
    """400 training and 100 test digits."""
    return first_digits(400, 100)


def test_digits_contain_all_images_of_scikit_learn() -> None:
    data = load_data("digits")
    assert len(data.train) + len(data.test) == 1797
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.shape[1:] == (1, 32, 32)
    assert data.train.images.max() == 255
    assert data.train.labels.unique().tolist() == list(range(10))


def test_digits_take_an_image_size() -> None:
    assert load_data("digits", image_size=40).image_size == 40


def test_validation_images_of_every_class_are_held_out_of_training(digits: ImageData) -> None:
    splits = digits.split(0.2)
    assert len(splits.validation) == 80
    assert len(splits.train) == 320
    assert splits.validation.labels.unique().tolist() == list(range(10))
    train = {image.numpy().tobytes() for image in splits.train.images}
    assert not train & {image.numpy().tobytes() for image in splits.validation.images}
    assert torch.equal(digits.split(0.2).train.images, splits.train.images), "always the same"


def test_a_limit_keeps_the_first_images_of_every_class(digits: ImageData) -> None:
    splits = digits.split(0.1)
    few = splits.with_train_images(95)
    assert few.train.labels.bincount().tolist() == [10] * 10
    for label in range(10):
        own, all_own = (part.images[part.labels == label] for part in (few.train, splits.train))
        torch.testing.assert_close(own, all_own[:10])
    assert few.validation is splits.validation
    torch.testing.assert_close(few.mean, splits.mean)
    for count in (None, len(splits.train), 10**6):
        assert splits.with_train_images(count) is splits


def test_too_few_images_for_a_validation_split_raise_an_error(digits: ImageData) -> None:
    with pytest.raises(NsoptError, match="too few"):
        digits.split(0.01)


def read_epoch(batches: TrainingBatches) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [batches.next() for _ in range(batches.per_epoch)]


def test_every_image_is_seen_once_an_epoch(digits: ImageData) -> None:
    splits = digits.split(0.1)
    source = TrainingBatches(splits, 64, seed=0)
    source.next()
    source.restore(TrainingBatches(splits, 64, seed=0).state())
    batches = read_epoch(source)
    assert sum(len(labels) for _, labels in batches) == len(splits.train)
    assert len(batches) == 6
    counts = torch.bincount(torch.cat([labels for _, labels in batches]))
    torch.testing.assert_close(counts, torch.bincount(splits.train.labels))


def test_a_last_batch_of_one_image_is_left_out(digits: ImageData) -> None:
    splits = digits.split(0.1)  # 360 images
    batches = TrainingBatches(splits, 359, seed=0)
    assert [len(labels) for _, labels in read_epoch(batches)] == [359]
    assert batches.next()[0].shape[0] == 359


@pytest.mark.parametrize("resized_crop", [None, 0.4])
def test_epochs_differ_and_depend_on_the_seed_alone(
    digits: ImageData, resized_crop: float | None
) -> None:
    splits = digits.split(0.1)

    def two_epochs(seed: int) -> torch.Tensor:
        batches = TrainingBatches(splits, 64, seed, resized_crop=resized_crop)
        return torch.cat([batches.next()[0] for _ in range(2 * batches.per_epoch)])

    first, second = two_epochs(1).chunk(2)
    assert not torch.equal(first, second)
    assert torch.equal(two_epochs(1), torch.cat([first, second]))
    assert not torch.equal(two_epochs(1), two_epochs(2))


@settings(max_examples=20)
@given(st.integers(0, 14), st.integers(1, 8), st.sampled_from([None, 0.4]))
def test_batches_continue_from_a_saved_state(
    digits: ImageData, before: int, after: int, crop: float | None
) -> None:
    splits = digits.split(0.1)
    whole, resumed = (TrainingBatches(splits, 64, seed, resized_crop=crop) for seed in (0, 1))
    for _ in range(before):
        whole.next()
    resumed.restore(whole.state())
    for _ in range(after):
        for expected, got in zip(whole.next(), resumed.next(), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_one_changed_training_pixel_changes_the_fingerprint(digits: ImageData) -> None:
    splits = digits.split(0.1)
    assert splits.fingerprint == digits.split(0.1).fingerprint
    images = splits.train.images.clone()
    images[0, 0, 0, 0] += 1
    changed = dataclasses.replace(splits, train=ImageSet(images, splits.train.labels))
    assert changed.fingerprint != splits.fingerprint


@pytest.mark.parametrize("part", ["validation", "test"])
def test_validation_and_test_change_the_fingerprint(digits: ImageData, part: str) -> None:
    splits = digits.split(0.1)
    images = getattr(splits, part)
    darker = ImageSet(images.images // 2, images.labels)
    changed = dataclasses.replace(splits, **{part: darker})
    assert changed.fingerprint != splits.fingerprint


def test_fingerprints_hold_few_images(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    many = ImageSet(torch.zeros(5000, 1, 1, 1, dtype=torch.uint8), torch.zeros(5000))
    splits = dataclasses.replace(digits.split(0.1), train=many)
    read, alive, counts = ImageSet.pixels, weakref.WeakSet[torch.Tensor](), list[int]()

    def pixels(self: ImageSet, where: slice | torch.Tensor) -> torch.Tensor:
        part = read(self, where)
        alive.add(part)
        counts.append(len(alive))
        return part

    monkeypatch.setattr(ImageSet, "pixels", pixels)
    assert splits.fingerprint["train"] == 5000
    assert len(counts) > 5
    assert max(counts) <= 2


def test_pixel_statistics_are_exact(digits: ImageData) -> None:
    splits = digits.split(0.1)
    pixels = splits.train.images.numpy().astype(np.float64)
    np.testing.assert_allclose(splits.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(splits.std, pixels.std(axis=(0, 2, 3), ddof=1), rtol=1e-6)


PEAK = """
import re
from pathlib import Path
import torch
from nsopt.data.images import ImageData, ImageSet

# Of this program alone: ru_maxrss begins with the peak of the process that started it.
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

before = peak()
images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8).expand(20_000, -1, -1, -1)
labels = torch.arange(20_000) % 2
few = ImageSet(images[:2], labels[:2])
data = ImageData("many", ("a", "b"), ImageSet(images, labels), few, few)
data.split(0.1)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from /proc")
def test_splitting_needs_no_float_copy_of_all_images() -> None:
    """As float32 these would take 940 MiB."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 470


def test_training_pixels_are_normalised(digits: ImageData) -> None:
    splits = digits.split(0.1)
    pixels = normalise(splits.train.images, splits)
    assert abs(pixels.mean()) < 1e-4
    assert abs(pixels.std() - 1) < 1e-3


@settings(max_examples=25)
@given(st.integers(1, 6), st.sampled_from([8, 9, 16]), st.integers(0, 2**31))
def test_augmented_images_are_windows(count: int, side: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    top, left = (torch.randint(9, (count,), generator=generator) for _ in range(2))
    flipped = torch.rand(count, generator=generator) < 0.5
    sides = torch.full((2, count), float(side))
    windows = torch.cat([torch.stack([top, left]) - 4.0, sides])
    result = cut_windows(images, windows, flipped, is_resized=False)
    padded = torch.nn.functional.pad(images, [4] * 4).float()
    for i, found in enumerate(result):
        window = padded[i, :, top[i] : top[i] + side, left[i] : left[i] + side]
        assert torch.equal(found, window.flip(-1) if flipped[i] else window)


@pytest.mark.parametrize("mirror", [True, False])
def test_half_of_the_images_are_mirrored_if_allowed(mirror: bool) -> None:
    images = torch.arange(32, dtype=torch.uint8).expand(400, 1, 32, 32)
    rising = ImageSet(images, torch.arange(400) % 2)
    data = ImageData("rising", ("a", "b"), rising, rising, mirror=mirror)
    batch = TrainingBatches(data.split(0.1), 300, seed=0).next()[0][:, 0, 16]
    mirrored = (batch[:, 10] > batch[:, 20]).float().mean()
    assert (0.3 < mirrored < 0.7) if mirror else mirrored == 0


@settings(max_examples=30)
@given(st.integers(8, 40), st.integers(8, 40), st.floats(0.05, 0.99), st.integers(0, 2**31))
def test_crop_windows_stay_inside_the_image_and_keep_the_smallest_area(
    height: int, width: int, smallest: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    windows = draw_windows(20, smallest, (3, height, width), generator)
    for top, left, high, wide in list_boxes(windows):
        assert 0 <= top <= height - high < height
        assert 0 <= left <= width - wide < width
        clamped = high == height or wide == width
        rounding = ((high + wide) / 2 + 1 / 4) / (height * width) + 1e-6  # half a pixel a side
        assert high * wide / (height * width) >= smallest - rounding or clamped


def list_boxes(windows: torch.Tensor) -> list[list[int]]:
    """Return top, left, height and width of each window."""
    return windows.T.int().tolist()


@pytest.mark.parametrize("side", [32, 65])
def test_resized_crops_are_antialiased_resizes_of_windows(side: int) -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (50, 3, side, side), dtype=torch.uint8, generator=generator)
    flipped = torch.rand(50, generator=generator) < 0.5
    windows = draw_windows(50, 0.2, (3, side, side), generator)
    found = cut_windows(images, windows, flipped, is_resized=True)
    assert found.dtype == torch.float32
    for i, (top, left, high, wide) in enumerate(list_boxes(windows)):
        window = images[i : i + 1, :, top : top + high, left : left + wide].float()
        resized = interpolate(window, (side, side), mode="bilinear", antialias=True)[0]
        expected = resized.flip(-1) if flipped[i] else resized
        inside = slice(side // high, -(side // high)), slice(side // wide, -(side // wide))
        torch.testing.assert_close(found[i][:, *inside], expected[:, *inside], rtol=0, atol=0.01)


class CountOperations(TorchDispatchMode):
    """Counts the operations that PyTorch runs inside."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("resized_crop", [None, 0.4])
def test_a_batch_takes_few_operations(digits: ImageData, resized_crop: float | None) -> None:
    """On a GPU each operation is a kernel: a loop over images would launch thousands."""
    batches = TrainingBatches(digits.split(0.1), 128, seed=0, resized_crop=resized_crop)
    with CountOperations() as operations:  # type: ignore[no-untyped-call]
        batches.next()
    assert operations.count < 80


def test_a_subset_without_images_in_a_part_is_refused(digits: ImageData) -> None:
    places = (digits.test.labels >= 5).nonzero()[:, 0]
    late = dataclasses.replace(digits, test=digits.test.take(places))
    with pytest.raises(NsoptError, match="no test images are of the first 5 classes: keep more"):
        late.subset(5, None)


def test_taking_a_subset_copies_no_images(digits: ImageData) -> None:
    some = digits.train.take([5, 3, 8]).take([2, 0])
    assert some.stored is digits.train.stored
    assert torch.equal(some.images, digits.train.images[[8, 5]])
    assert torch.equal(some.labels, digits.train.labels[[8, 5]])
    assert torch.equal(torch.cat(list(some.parts(1))), some.images)
    assert torch.equal(some.pixels(torch.tensor([1])), some.images[1:])


def test_a_given_mean_and_std_normalise_the_images(digits: ImageData) -> None:
    own = digits.normalised_by([0.5], [0.25]).split(0.1)
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    assert normalise(images, own).flatten().tolist() == [-2.0, 2.0]
    usual = digits.normalised_by(None, None).split(0.1)
    assert own.fingerprint != usual.fingerprint
    assert usual.fingerprint == digits.split(0.1).fingerprint
    with pytest.raises(NsoptError, match=r"give mean= and std=, each .* \(1\)"):
        digits.normalised_by([0.5, 0.5], [0.25, 0.25])
    assert digits.normalised_by([0.5], [0.25]).normalised_by(None, None).mean is None
    with pytest.raises(NsoptError, match="mean must be of pixels from 0 to 1: divide by 255"):
        digits.normalised_by([127.5], [60.0])
