"""Small CIFAR archives in the original format, without a network connection."""

import hashlib
import io
import pickle
import tarfile
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from nsopt import NsoptError, load_data
from nsopt.data.registry import fetch_tiny_imagenet
from nsopt.torchvision_import import import_torchvision

UNREACHABLE = "http://127.0.0.1:9/cifar-100-python.tar.gz"


def make_batch(count: int, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
    return pickle.dumps({"data": pixels, "fine_labels": [i % 100 for i in range(count)]})


def pack(members: dict[str, bytes], folder: Path, root: str, name: str) -> Path:
    """Write a tar.gz of `members` below `root`."""
    folder.mkdir()
    with tarfile.open(folder / name, "w:gz") as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(f"{root}/{member}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return folder / name


def install(kind: str, root: str, members: dict[str, bytes], folder: Path, patch: Any) -> Path:
    """Write an archive, with checksums that torchvision is made to expect; return its folder.

    Its last two members are the test batch and the names of the classes.
    """
    archive = pack(members, folder, root, root.replace("batches-py", "python") + ".tar.gz")
    *train, test, meta = ([name, hashlib.md5(own).hexdigest()] for name, own in members.items())
    reader: Any = getattr(import_torchvision("datasets"), kind)
    changes = {"train_list": train, "test_list": [test], "meta": {**reader.meta, "md5": meta[1]}}
    changes |= {"tgz_md5": hashlib.md5(archive.read_bytes()).hexdigest(), "url": UNREACHABLE}
    for name, value in changes.items():
        patch.setattr(reader, name, value)
    return folder


@pytest.fixture
def small_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of 300 + 100 images."""
    members = {"train": make_batch(300, 0), "test": make_batch(100, 1)}
    members["meta"] = pickle.dumps({"fine_label_names": [f"class {i}" for i in range(100)]})
    return install("CIFAR100", "cifar-100-python", members, tmp_path / "data", monkeypatch)


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of two training batches of 20 images and a test batch of 10."""
    sizes = {"data_batch_1": 20, "data_batch_2": 20, "test_batch": 10}
    members = {name: make_cifar10_batch(n, seed) for seed, (name, n) in enumerate(sizes.items())}
    members["batches.meta"] = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    return install("CIFAR10", "cifar-10-batches-py", members, tmp_path / "data", monkeypatch)


def make_cifar10_batch(count: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    return pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(count)]})


def test_batches_of_cifar10_are_read_in_order(small_cifar10: Path) -> None:
    data = load_data("cifar10", small_cifar10)
    assert data.train.images.shape == (40, 3, 32, 32)
    assert data.test.labels.tolist() == list(range(10))
    second = np.random.default_rng(1).integers(0, 256, (20, 3072), dtype=np.uint8)
    np.testing.assert_array_equal(data.train.images[20].numpy().ravel(), second[0])


def test_an_archive_is_unpacked_and_read(small_cifar100: Path) -> None:
    data = load_data("cifar100", small_cifar100)
    assert data.name == "cifar100"
    assert len(data.classes) == 100
    assert data.train.images.shape == (300, 3, 32, 32)
    assert data.test.labels.tolist() == list(range(100))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3072), dtype=np.uint8)
    np.testing.assert_array_equal(data.train.images[7].numpy().ravel(), pixels[7])


def test_a_damaged_archive_is_not_opened(small_cifar100: Path) -> None:
    archive = small_cifar100 / "cifar-100-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(NsoptError, match=r"put cifar-100-python.tar.gz \(md5 [0-9a-f]{32}\) there"):
        load_data("cifar100", small_cifar100)


def test_damaged_files_are_not_unpickled(small_cifar100: Path) -> None:
    load_data("cifar100", small_cifar100)
    (small_cifar100 / "cifar-100-python.tar.gz").unlink()
    (small_cifar100 / "cifar-100-python/train").write_bytes(make_batch(300, 5))
    with pytest.raises(NsoptError, match=r"put cifar-100-python.tar.gz \(md5 [0-9a-f]{32}\) there"):
        load_data("cifar100", small_cifar100)


def test_missing_archives_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_torchvision("datasets").CIFAR100, "url", UNREACHABLE)
    with pytest.raises(NsoptError, match=r"put cifar-100-python.tar.gz \(md5 eb9058c3") as caught:
        load_data("cifar100", tmp_path / "none")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "none") in str(caught.value)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "TimeoutError"),
        (URLError(""), "URLError"),
        (URLError("refused"), "refused"),
        (RuntimeError("not found\nat all"), "not found"),
    ],
    ids=repr,
)
def test_the_error_for_a_failed_download_has_a_one_line_reason(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(import_torchvision("datasets").CIFAR100, "download", fail)
    monkeypatch.setattr(import_torchvision("datasets").utils, "download_url", fail)
    for read in (partial(load_data, "cifar100"), fetch_tiny_imagenet):
        with pytest.raises(NsoptError, match=rf"cannot be downloaded \({reason}\): put "):
            read(tmp_path)


def test_cifar_takes_no_image_size(tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match="image_size="):
        load_data("cifar10", tmp_path, image_size=64)
