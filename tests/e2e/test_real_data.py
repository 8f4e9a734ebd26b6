"""Real photographs; decoded once, since one process runs the tests of a file."""

import re
from pathlib import Path

import pytest
import torch

from nsopt.data.registry import load_data
from tests.conftest import call_nsopt, run_nsopt


@pytest.mark.shared_data
def test_real_cifar10_is_read_from_its_zip(shared: Path) -> None:
    data = load_data(f"folder:{shared / 'data/cifar10-jpeg.zip'}")
    assert data.name == "folder-cifar10-jpeg"
    assert data.train.images.shape == (50_000, 3, 32, 32)
    assert data.test.images.shape == (10_000, 3, 32, 32)
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    mean = data.split(0.1).mean / 255
    torch.testing.assert_close(mean, torch.tensor([0.491, 0.482, 0.447]), atol=5e-3, rtol=0)


@pytest.mark.shared_data
def test_real_cifar10_runs_from_search_to_report(shared: Path, tmp_path: Path) -> None:
    """One step of everything on the real images would be too slow here: uniform alone, briefly."""
    done = run_nsopt(
        f"--data=folder:{shared / 'data/cifar10-jpeg.zip'}",
        *[
            "--preset=smoke",
            "--methods=uniform",
            "--ratios=0.03",
            "--seeds=1",
            "--epochs=1",
            "--batch-size=512",
        ],
        f"--out={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    accuracy = float(re.search(r"test (\d+\.\d+) %", done.stdout)[1])  # type: ignore[index]
    assert accuracy > 15  # one epoch of a network of 9,000 parameters; chance is 10


@pytest.mark.shared_data
def test_stand_in_for_cifar100_is_made_of_real_images(shared: Path) -> None:
    data = load_data("tiny-imagenet-100-32px", shared / "data/tiny-imagenet-200-sample.zip")
    assert data.name == "tiny-imagenet-100-32px"
    assert len(data.classes) == 100
    assert data.train.images.shape == (12_000, 3, 32, 32)
    assert torch.bincount(data.test.labels).tolist() == [25] * 100


@pytest.mark.shared_data
def test_real_tiny_imagenet_is_checked(shared: Path) -> None:
    archive = shared / "data/tiny-imagenet-200-sample.zip"
    done = call_nsopt("data", "check", "tiny-imagenet", "--image-size=32", f"--data-dir={archive}")
    assert "24000 training, 5000 test images, 200 classes, 3x32x32" in done.stdout
