"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), read and checked by torchvision."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsopt.data.checksum import check_md5
from nsopt.data.images import ImageData, ImageSet
from nsopt.errors import NsoptError, short_reason
from nsopt.torchvision_import import import_torchvision

_READERS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}


def load_cifar(name: str, directory: Path) -> ImageData:
    """Load `cifar10` or `cifar100`: 50,000 training and 10,000 test images, 32x32.

    torchvision unpacks the published archive in `directory`, or downloads it, and checks all
    checksums.

    Raises:
        NsoptError: if that fails; the message says what to do.
    """
    reader = getattr(import_torchvision("datasets"), _READERS[name])
    archive = directory / reader.filename
    if archive.is_file():
        check_md5(archive, reader.tgz_md5)
    try:
        train = reader(str(directory), train=True, download=True)
        test = reader(str(directory), train=False)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):  # it stays unless it is empty
            directory.rmdir()
        raise NsoptError(
            f"{name} is not complete in {directory} and cannot be downloaded "
            f"({short_reason(error)}): put {reader.filename} (md5 {reader.tgz_md5}) there"
        ) from None
    return ImageData(
        name=name,
        classes=tuple(train.classes),
        train=_make_image_set(train),
        test=_make_image_set(test),
    )


def _make_image_set(reader: Any) -> ImageSet:
    images = torch.from_numpy(np.ascontiguousarray(reader.data.transpose(0, 3, 1, 2)))
    return ImageSet(images, torch.tensor(reader.targets, dtype=torch.int64))
