"""Real photographs, of which one in ten or one in twenty is decoded."""

import re
import zipfile
from pathlib import Path

import pytest
import torch

from nsopt.data.registry import load_data
from tests.conftest import call_nsopt, run_nsopt


def thin_out(whole: Path, thin: Path, every: int, folder: str) -> Path:
    """Write a zip with one in `every` of the files below `folder`, and all other files."""
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(thin, "w") as target:
        inside = [name for name in source.namelist() if f"/{folder}" in name]
        left_out = set(inside) - set(inside[::every])
        for name in source.namelist():
            if name not in left_out:
                target.writestr(name, source.read(name))
    return thin


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every 20th image of CIFAR-10."""
    thin = tmp_path_factory.mktemp("data") / "cifar10-some.zip"
    return thin_out(shared / "data/cifar10-jpeg.zip", thin, 20, "")


@pytest.mark.shared_data
def test_real_cifar10_is_read_from_its_zip(photographs: Path) -> None:
    data = load_data(f"folder:{photographs}")
    assert data.name == "folder-cifar10-some"
    assert data.train.images.shape == (2_500, 3, 32, 32)
    assert data.test.images.shape == (500, 3, 32, 32)
    assert torch.bincount(data.train.labels).tolist() == [250] * 10
    mean = data.split(0.1).mean / 255
    torch.testing.assert_close(mean, torch.tensor([0.491, 0.482, 0.447]), atol=1e-2, rtol=0)


@pytest.mark.shared_data
def test_a_study_runs_on_real_cifar10(photographs: Path, tmp_path: Path) -> None:
    done = run_nsopt(
        f"--data=folder:{photographs}",
        *["--preset=smoke", "--methods=uniform", "--ratios=0.06", "--seeds=1"],
        *["--per-class=150", "--epochs=1", "--batch-size=16"],
        f"--out={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    accuracy = float(re.search(r"test (\d+\.\d+) %", done.stdout)[1])  # type: ignore[index]
    assert accuracy > 15  # one epoch of a network of 34,000 parameters; chance is 10


@pytest.fixture(scope="module")
def pictures(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tenth training image of a sample of Tiny ImageNet, in its own layout."""
    thin = tmp_path_factory.mktemp("data") / "tiny-imagenet-tenth.zip"
    return thin_out(shared / "data/tiny-imagenet-200-sample.zip", thin, 10, "train/")


@pytest.mark.shared_data
def test_the_substitute_for_cifar100_consists_of_tiny_imagenet_images(pictures: Path) -> None:
    data = load_data("tiny-imagenet-100-32px", pictures)
    assert data.name == "tiny-imagenet-100-32px"
    assert len(data.classes) == 100
    assert data.train.images.shape == (1_200, 3, 32, 32)
    assert torch.bincount(data.test.labels).tolist() == [25] * 100


@pytest.mark.shared_data
def test_data_check_counts_real_tiny_imagenet(pictures: Path) -> None:
    done = call_nsopt("data", "check", "tiny-imagenet", "--image-size=32", f"--data-dir={pictures}")
    assert "2400 training, 5000 test images, 200 classes, 3x32x32" in done.stdout
