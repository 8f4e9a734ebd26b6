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

from nsopt.data.published import fetch_tiny_imagenet
from nsopt.data.registry import load_data
from nsopt.errors import NsoptError
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


@pytest.fixture
def small_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of 300 + 100 images, with checksums that torchvision is made to expect."""
    members = {
        "train": make_batch(300, 0),
        "test": make_batch(100, 1),
        "meta": pickle.dumps({"fine_label_names": [f"class {i}" for i in range(100)]}),
    }
    folder = tmp_path / "data"
    archive = pack(members, folder, "cifar-100-python", "cifar-100-python.tar.gz")
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in members.items()}
    reader: Any = import_torchvision("datasets").CIFAR100
    monkeypatch.setattr(reader, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(reader, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5["meta"]})
    monkeypatch.setattr(reader, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(reader, "url", UNREACHABLE)
    return folder


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of two training batches of 20 images and a test batch of 10."""
    names = [f"class {i}" for i in range(10)]
    members = {
        "data_batch_1": make_cifar10_batch(20, 0),
        "data_batch_2": make_cifar10_batch(20, 1),
        "test_batch": make_cifar10_batch(10, 2),
        "batches.meta": pickle.dumps({"label_names": names}),
    }
    folder = tmp_path / "data"
    archive = pack(members, folder, "cifar-10-batches-py", "cifar-10-python.tar.gz")
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in members.items()}
    reader: Any = import_torchvision("datasets").CIFAR10
    train = [[name, md5[name]] for name in ("data_batch_1", "data_batch_2")]
    monkeypatch.setattr(reader, "train_list", train)
    monkeypatch.setattr(reader, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5["batches.meta"]})
    monkeypatch.setattr(reader, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(reader, "url", UNREACHABLE)
    return folder


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


def test_the_error_for_a_missing_archive_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_unknown_data_set_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match="did you mean 'cifar100'"):
        load_data("cifar-100", tmp_path)


def test_cifar_takes_no_image_size(tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match="image_size="):
        load_data("cifar10", tmp_path, image_size=64)
