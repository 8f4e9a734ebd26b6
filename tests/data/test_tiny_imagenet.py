import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from nsopt import NsoptError, load_data
from nsopt.data.source import Subset

WNIDS = ("n01", "n02", "n03")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of four training images and two annotated ones, in the original layout."""
    root = tmp_path / "data" / "tiny-imagenet-200"
    (root / "val/images").mkdir(parents=True)
    annotations = []
    for label, wnid in enumerate(WNIDS):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        for index in range(4):
            make_image(label, index).save(images / f"{wnid}_{index}.JPEG")
        for index in range(2):
            name = f"val_{2 * index + label}{label}.JPEG"
            make_image(label, index).save(root / "val/images" / name)
            annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63")
    (root / "val/val_annotations.txt").write_text("\n".join(reversed(annotations)) + "\n")
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tfrog\nn99\tother\n")
    return tmp_path / "data"


def make_image(label: int, index: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (80 * label, 40 + index, 0))


def pack(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def test_original_layout_is_read_with_its_annotations(folder: Path) -> None:
    data = load_data("tiny-imagenet", folder)
    assert data.name == "tiny-imagenet"
    assert data.classes == ("goldfish", "frog", "n03")
    assert data.train.images.shape == (12, 3, 64, 64)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    red = data.test.images[:, 0].float().mean(dim=(1, 2))
    torch.testing.assert_close(red, 80.0 * data.test.labels, atol=3, rtol=0)
    assert data.validation is None


def test_a_zip_is_read_like_its_folder(folder: Path, tmp_path: Path) -> None:
    packed = load_data("tiny-imagenet", pack(folder, tmp_path / "mine.zip"))
    plain = load_data("tiny-imagenet", folder)
    torch.testing.assert_close(packed.train.images, plain.train.images)
    torch.testing.assert_close(packed.test.labels, plain.test.labels)


def test_images_are_resized_on_demand(folder: Path) -> None:
    assert load_data("tiny-imagenet", folder, image_size=32).image_size == 32


def test_published_zip_is_checked_before_it_is_opened(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    pack(folder, other / "tiny-imagenet-200.zip")
    with pytest.raises(NsoptError, match=r"is damaged .*90528d7ca1a48142e341f4ef8d21d0de"):
        load_data("tiny-imagenet", other)


def test_the_error_for_missing_data_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match=r"put tiny-imagenet-200.zip \(md5 .*nsopt data fetch"):
        load_data("tiny-imagenet", tmp_path)


def test_other_layouts_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "tiny-imagenet-200/val/val_annotations.txt").unlink()
    with pytest.raises(NsoptError, match="does not have the layout"):
        load_data("tiny-imagenet", folder)
    (tmp_path / "empty.zip").write_bytes(make_empty_zip(tmp_path))
    with pytest.raises(NsoptError, match="does not have the layout"):
        load_data("tiny-imagenet", tmp_path / "empty.zip")


def make_empty_zip(folder: Path) -> bytes:
    path = folder / "nothing.zip"
    zipfile.ZipFile(path, "w").close()
    return path.read_bytes()


def test_a_class_without_test_images_is_named(folder: Path) -> None:
    annotations = folder / "tiny-imagenet-200" / "val/val_annotations.txt"
    lines = annotations.read_text().splitlines()
    annotations.write_text("\n".join(line for line in lines if "n02" not in line))
    with pytest.raises(NsoptError, match="n02 has no images in train/ or val/: fetch it again"):
        load_data("tiny-imagenet", folder)


def test_unknown_annotations_are_refused(folder: Path) -> None:
    annotations = folder / "tiny-imagenet-200/val/val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("n03", "n77"))
    with pytest.raises(NsoptError, match=r"val_annotations.txt .* is damaged .*n77"):
        load_data("tiny-imagenet", folder)


def test_subsets_keep_the_first_classes_and_images(folder: Path) -> None:
    data = load_data("tiny-imagenet", folder, subset=Subset(classes=2, per_class=3))
    assert data.name == "tiny-imagenet-2classes-3each"
    assert data.classes == ("goldfish", "frog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    whole = load_data("tiny-imagenet", folder, subset=Subset())
    assert (whole.name, len(whole.train)) == ("tiny-imagenet", 12)


@pytest.mark.parametrize(
    ("subset", "message"),
    [(Subset(classes=4), "from 2 to 3, got 4"), (Subset(per_class=0), "at least 1, got 0")],
)
def test_subsets_out_of_range_are_refused(folder: Path, subset: Subset, message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        load_data("tiny-imagenet", folder, subset=subset)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("val/val_annotations.txt", b"val_00.JPEG\n", "val_annotations.txt .* is damaged"),
        ("words.txt", b"n01\tgoldfish\nn02\n", "words.txt is damaged"),
        ("words.txt", b"\xff\n", "words.txt is damaged .*byte"),
    ],
)
def test_a_bad_line_names_its_file(folder: Path, file: str, content: bytes, message: str) -> None:
    (folder / "tiny-imagenet-200" / file).write_bytes(content)
    with pytest.raises(NsoptError, match=message):
        load_data("tiny-imagenet", folder)
