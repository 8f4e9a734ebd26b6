"""Images without classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nsopt
from nsopt.errors import NsoptError


def write(path: Path, size: tuple[int, int], value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(6):
        write(tmp_path / "photos" / "abc"[index % 3] / f"{index}.png", (8, 8), 51 * (index % 6))
    (tmp_path / "photos" / "notes.txt").write_text("of the summer")
    return tmp_path / "photos"


def test_images_of_all_sub_folders_are_inputs(photos: Path) -> None:
    images = nsopt.load_images(photos)
    assert images.shape == (6, 3, 8, 8)
    assert images.dtype == torch.float32
    reds = images[:, 0, 0, 0].sort().values
    torch.testing.assert_close(reds, torch.arange(6) / 5)
    mean, std = (0.5, 0.0, 0.5), (0.5, 1.0, 0.25)
    normalised = nsopt.load_images(str(photos), 4, mean, std)
    assert normalised.shape == (6, 3, 4, 4)
    assert normalised[:, 2].unique().tolist() == [2.0]
    np.testing.assert_allclose(sorted(normalised[:, 0, 0, 0]), np.arange(6) / 2.5 - 1, atol=1e-6)


def test_of_many_images_some_are_chosen_always_the_same(photos: Path) -> None:
    few = nsopt.load_images(photos, most=3)
    assert len(few) == 3
    assert torch.equal(nsopt.load_images(photos, most=3), few)
    assert few.unique(dim=0).shape[0] == 3


def test_unusable_images_are_one_line(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match="no folder or zip at"):
        nsopt.load_images(tmp_path / "missing")
    with pytest.raises(NsoptError, match=r"give mean= and std=, each .* \(3\)"):
        nsopt.load_images(photos, None, (0.5,), (0.5,))
    with pytest.raises(NsoptError, match="must be at least 1"):
        nsopt.load_images(photos, most=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NsoptError, match="empty: no images"):
        nsopt.load_images(tmp_path / "empty")
    write(photos / "wide.png", (9, 8), 0)
    with pytest.raises(NsoptError, match="give a size with image_size="):
        nsopt.load_images(photos)
    assert len(nsopt.load_images(photos, 8)) == 7
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(NsoptError, match=r"not a complete image .*: replace or remove"):
        nsopt.load_images(photos, 8)
