import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsopt.data.augmentation import (
    batches_per_epoch,
    crop_and_mirror,
    evaluation_batches,
    training_batches,
)
from nsopt.data.images import ImageData
from nsopt.data.registry import load_data
from nsopt.errors import NsoptError


def test_digits_are_real_and_split() -> None:
    data = load_data("digits")
    assert len(data.train) + len(data.test) == 1797
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.shape[1:] == (1, 32, 32)
    assert data.train.images.max() == 255
    assert data.train.labels.unique().tolist() == list(range(10))


def test_digits_take_an_image_size() -> None:
    assert load_data("digits", image_size=40).image_size == 40


def test_validation_is_held_out_of_training_in_every_class(digits: ImageData) -> None:
    splits = digits.split(0.2)
    assert len(splits.validation) == 80
    assert len(splits.train) == 320
    assert splits.validation.labels.unique().tolist() == list(range(10))
    train = {image.numpy().tobytes() for image in splits.train.images}
    assert not train & {image.numpy().tobytes() for image in splits.validation.images}


def test_split_is_always_the_same(digits: ImageData) -> None:
    torch.testing.assert_close(digits.split(0.1).train.images, digits.split(0.1).train.images)


def test_too_few_images_for_a_validation_split_say_so(digits: ImageData) -> None:
    with pytest.raises(NsoptError, match="too few"):
        digits.split(0.01)


def test_every_image_is_seen_once_an_epoch(digits: ImageData) -> None:
    splits = digits.split(0.1)
    batches = list(training_batches(splits, 64, torch.Generator().manual_seed(0)))
    assert sum(len(labels) for _, labels in batches) == len(splits.train)
    assert len(batches) == batches_per_epoch(len(splits.train), 64)
    counts = torch.bincount(torch.cat([labels for _, labels in batches]))
    torch.testing.assert_close(counts, torch.bincount(splits.train.labels))


def test_a_last_batch_of_one_image_is_left_out(digits: ImageData) -> None:
    splits = digits.split(0.1)  # 360 images
    sizes = [len(y) for _, y in training_batches(splits, 359, torch.Generator())]
    assert sizes == [359]
    assert batches_per_epoch(360, 359) == 1


def test_epochs_follow_from_the_seed_alone(digits: ImageData) -> None:
    splits = digits.split(0.1)

    def epoch(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([images for images, _ in training_batches(splits, 64, generator)])

    torch.testing.assert_close(epoch(1), epoch(1), rtol=0, atol=0)
    assert not torch.equal(epoch(1), epoch(2))


def test_training_pixels_are_normalised(digits: ImageData) -> None:
    splits = digits.split(0.1)
    pixels = torch.cat([x for x, _ in evaluation_batches(splits.train, splits, 100)])
    assert abs(pixels.mean()) < 1e-4
    assert abs(pixels.std() - 1) < 1e-3


@settings(max_examples=25)
@given(st.integers(1, 6), st.sampled_from([8, 9, 16]), st.booleans(), st.integers(0, 2**31))
def test_augmented_images_are_windows_of_the_padded_original(
    count: int, side: int, mirror: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    result = crop_and_mirror(images, mirror, generator)
    assert result.shape == images.shape
    assert result.dtype == torch.uint8
    padded = torch.nn.functional.pad(images, [4] * 4)
    for original, augmented in zip(padded, result, strict=True):
        windows = original.unfold(1, side, 1).unfold(2, side, 1).permute(1, 2, 0, 3, 4)
        candidates = [augmented, augmented.flip(-1)] if mirror else [augmented]
        assert any((windows == c).flatten(2).all(-1).any() for c in candidates)


def test_both_mirrored_and_plain_images_occur() -> None:
    images = torch.arange(32, dtype=torch.uint8).expand(200, 1, 32, 32)
    falling = crop_and_mirror(images, True, torch.Generator().manual_seed(0))[:, 0, 16].int()
    mirrored = (falling[:, 10] > falling[:, 20]).float().mean()
    assert 0.3 < mirrored < 0.7
