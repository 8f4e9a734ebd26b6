"""scikit-learn's handwritten digits, which need no download."""

import torch
from torch.nn import functional

from nsopt.data.images import ImageData, ImageSet

_TEST_FRACTION = 0.25


def load_digits(image_size: int = 32) -> ImageData:
    """Load 1,797 grey 8x8 digits, enlarged to `image_size`; a quarter of them are test images."""
    from sklearn import datasets, model_selection  # noqa: PLC0415  (0.6 s to import)

    digits = datasets.load_digits()
    labels = torch.as_tensor(digits.target, dtype=torch.int64)
    small = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] * (255 / 16)
    large = functional.interpolate(small, size=(image_size, image_size), mode="bilinear")
    everything = ImageSet(large.round().clamp(0, 255).to(torch.uint8), labels)
    train, test = model_selection.train_test_split(
        range(len(labels)), test_size=_TEST_FRACTION, random_state=0, stratify=digits.target
    )
    return ImageData(
        name="digits",
        classes=tuple(str(digit) for digit in digits.target_names),
        train=everything.take(train),
        test=everything.take(test),
        mirror=False,
    )
