import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nsopt import ImageData, NsoptError, load_data
from nsopt.data import folder as folder_module
from nsopt.data.registry import load_source
from nsopt.data.source import Source
from nsopt.torchvision_import import import_torchvision
from tests.conftest import call_nsopt, one_line


def write_images(
    root: Path, splits: tuple[str, ...] = ("train", "test"), size: tuple[int, int] = (8, 8)
) -> Path:
    generator = np.random.default_rng(0)
    for split in splits:
        for label, name in enumerate(["ant", "bee"]):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(3):
                pixels = generator.integers(0, 100, (*size, 3)) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return root


def pack(folder: Path, path: Path, root: str = "", pattern: str = "*.png") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in folder.rglob(pattern) if file.is_file()):
            archive.write(file, Path(root) / file.relative_to(folder))
    return path


def test_a_folder_is_read_class_by_class(tmp_path: Path) -> None:
    data = load_data(f"folder:{write_images(tmp_path / 'insects')}")
    assert data.name == "folder-insects"
    assert data.classes == ("ant", "bee")
    assert data.train.images.shape == (6, 3, 8, 8)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.images[:3].max() < 100 <= data.train.images[3:].min()
    first = np.asarray(Image.open(tmp_path / "insects/train/ant/0.png"))
    np.testing.assert_array_equal(data.train.images[0].permute(1, 2, 0).numpy(), first)


@pytest.mark.parametrize("root", ["", "inside"])
def test_zips_are_read_alike(tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "insects")
    plain = load_data(f"folder:{folder}")
    packed = load_data(f"folder:{pack(folder, tmp_path / 'insects.zip', root)}")
    assert packed.name == plain.name
    monkeypatch.chdir(folder / "train")
    assert load_data("folder:..").name == plain.name
    monkeypatch.chdir(folder)
    assert load_data("folder:.").name == plain.name
    assert packed.classes == plain.classes
    torch.testing.assert_close(packed.train.images, plain.train.images, rtol=0, atol=0)
    torch.testing.assert_close(packed.test.labels, plain.test.labels, rtol=0, atol=0)
    assert sorted(tmp_path.iterdir()) == [folder, tmp_path / "insects.zip"]


def test_folders_of_finder_and_jupyter_are_ignored(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "insects")
    for name in (".ipynb_checkpoints", "train/.ipynb_checkpoints", "test/.ipynb_checkpoints"):
        (folder / name).mkdir()
    path = pack(folder, tmp_path / "insects.zip", "inside")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/inside/train/ant/._0.png", b"attributes")
    for place in (folder, path):
        data = load_data(f"folder:{place}")
        assert data.classes == ("ant", "bee")
        assert len(data.train) == 6


SUFFIXES = [".webp", ".ppm", ".tiff", ".gif", ".jfif", ".avif", ".jp2", ".tga", ".PNG", ".mpo"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("packs", [False, True])
def test_images_of_every_suffix_are_read(tmp_path: Path, suffix: str, packs: bool) -> None:
    folder = write_images(tmp_path / "x")
    for file in list(folder.rglob("*.png")):
        with Image.open(file) as image:
            image.save(file.with_suffix(suffix))
        file.unlink()
    path = pack(folder, tmp_path / "x.zip", pattern="*/*/*") if packs else folder
    assert load_data(f"folder:{path}").train.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("packs", [False, True])
def test_images_in_sub_folders_belong_to_their_class(tmp_path: Path, packs: bool) -> None:
    folder = write_images(tmp_path / "x")
    plain = load_data(f"folder:{folder}").train
    deep = folder / "train/ant/2/2024.png"
    deep.mkdir(parents=True)
    (folder / "train/ant/2.png").rename(deep / "2.png")
    data = load_data(f"folder:{pack(folder, tmp_path / 'x.zip') if packs else folder}")
    torch.testing.assert_close(data.train.images, plain.images, rtol=0, atol=0)
    assert data.train.labels.tolist() == plain.labels.tolist()


def test_changes_behind_a_link_are_noticed(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "x")
    (folder / "train/ant").rename(tmp_path / "ants")
    (folder / "train/ant").symlink_to(tmp_path / "ants")
    assert len(load_data(f"folder:{folder}").train) == 6
    Image.new("RGB", (8, 8)).save(tmp_path / "ants/more.png")
    assert len(load_data(f"folder:{folder}").train) == 7


@pytest.mark.parametrize("packs", [False, True])
def test_what_is_left_out_is_counted_by_reason(tmp_path: Path, packs: bool) -> None:
    folder, image = write_images(tmp_path / "x"), Image.new("RGB", (8, 8))
    (folder / "train/bee/notes.txt").write_text("notes")
    (folder / "train/bee/notes.pdf").write_bytes(b"%PDF-1.7")
    (folder / "train/bee/1.heic").write_bytes(b"....ftypheic")
    (folder / "train/bee/2.HEIC").write_bytes(b"....ftypheic")
    (folder / "train/ant/._0.png").write_bytes(b"attributes of macOS")
    (folder / "train/.DS_Store").write_bytes(b"no image")
    (folder / "train/bee/drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0")
    image.save(folder / "train/loose.png")
    (folder / "valid/ant").mkdir(parents=True)
    image.save(folder / "valid/ant/0.png")
    path = pack(folder, tmp_path / "x.zip", pattern="*") if packs else folder
    with pytest.warns(UserWarning, match="left out of folder:") as caught:
        data = load_data(f"folder:{path}")
    assert len(data.train) == len(data.test) == 6
    assert sorted(data.skipped) == [
        ".eps files, which Pillow does not read: 1",
        ".heic files, which Pillow does not read: 2",
        ".pdf files, which Pillow does not read: 1",
        ".txt files, which Pillow does not read: 1",
        "images outside class folders: 2",
    ]
    assert "; ".join(data.skipped) in str(caught[0].message)
    assert "; left out: " in repr(data)


def test_photographs_are_read_upright(tmp_path: Path) -> None:
    """Orientation 6: the first row of the stored pixels is the right column."""
    folder, exif = write_images(tmp_path / "x"), Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255
    Image.fromarray(pixels).save(folder / "train/ant/0.png", exif=exif)
    Image.fromarray(pixels).save(folder / "train/ant/1.png", exif=b"Exif\0\0damaged")
    images = load_data(f"folder:{folder}").train.images
    np.testing.assert_array_equal(images[0, 0], pixels[..., 0].T[:, ::-1])
    np.testing.assert_array_equal(images[1, 0], pixels[..., 0])


def test_a_folder_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "x")
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"train/bee/{index}.jpeg", quality=70)
        Image.fromarray(pixels[..., 0]).save(folder / f"train/ant/grey{index}.jpeg")
    theirs = import_torchvision("datasets").ImageFolder(folder / "train")
    pixels = np.stack([np.asarray(image) for image, _ in theirs]).transpose(0, 3, 1, 2)
    data = load_data(f"folder:{folder}")
    np.testing.assert_array_equal(data.train.images.numpy(), pixels)
    assert data.train.labels.tolist() == theirs.targets
    again = ImageData.from_dataset(theirs, theirs)
    assert again.train.checksum() == data.train.checksum()
    assert again.classes == data.classes == tuple(theirs.classes)


DEEP = np.array([[0, 128, 129], [257, 32_768, 40_000], [65_279, 65_407, 65_535]], np.uint16)
EIGHT = [[0, 0, 1], [1, 128, 156], [254, 255, 255]]  # divided by 257 by hand


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm", ".jp2"])
def test_grey_images_of_16_bits_are_scaled_to_8(tmp_path: Path, suffix: str) -> None:
    """Pillow alone would make all pixels above 255 white."""
    folder = write_images(tmp_path / "x", size=(3, 3))
    if suffix == ".pgm":
        (folder / "train/ant/1.pgm").write_bytes(b"P5 3 3 65535\n" + DEEP.astype(">u2").tobytes())
    else:
        Image.fromarray(DEEP).save(folder / f"train/ant/1{suffix}")
    (folder / "train/ant/1.png").unlink(missing_ok=suffix == ".png")
    if suffix == ".png":
        Image.fromarray(DEEP).save(folder / "train/ant/1.png")
    data = load_data(f"folder:{folder}")
    assert data.train.images[1].tolist() == [EIGHT] * 3


@pytest.mark.parametrize("pixels", [np.float32(1), np.int32(70_000)])
def test_grey_images_of_32_bits_are_said_to_be_such(tmp_path: Path, pixels: np.generic) -> None:
    folder = write_images(tmp_path / "x")
    Image.fromarray(np.full((8, 8), pixels)).save(folder / "train/ant/1.tiff")
    line = r"1\.tiff .*its pixels are of 32 bits: give it 8 or 16"
    with one_line(line):
        load_data(f"folder:{folder}")
    with pytest.warns(UserWarning, match=line):
        assert len(load_data(f"folder:{folder}", skip_corrupt=True).train) == 6


def fill(mode: str, colour: float | tuple[int, ...]) -> Image.Image:
    return Image.new(mode, (8, 8), colour)


@pytest.mark.parametrize(
    ("image", "suffix", "rgb"),
    [
        (fill("1", 1), ".png", (255, 255, 255)),
        (fill("L", 70), ".png", (70, 70, 70)),
        (fill("LA", (70, 255)), ".png", (70, 70, 70)),
        (fill("RGBA", (10, 20, 30, 255)), ".png", (10, 20, 30)),
        (fill("RGB", (10, 20, 30)).quantize(), ".gif", (10, 20, 30)),
        (fill("CMYK", (255, 0, 0, 0)), ".tiff", (0, 255, 255)),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_images_of_every_mode_are_rgb(
    tmp_path: Path, image: Image.Image, suffix: str, rgb: tuple[int, int, int]
) -> None:
    folder = write_images(tmp_path / "x")
    image.save(folder / f"train/ant/9{suffix}")
    found = load_data(f"folder:{folder}").train.images[3]
    assert found.flatten(1).unique(dim=1)[:, 0].tolist() == list(rgb)


def test_an_animation_is_its_first_frame_and_a_single_pixel_an_image(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "x", size=(1, 1))
    frames = [Image.new("L", (1, 1), value) for value in (9, 200)]
    frames[0].save(folder / "train/ant/9.gif", save_all=True, append_images=frames[1:])
    images = load_data(f"folder:{folder}").train.images
    assert images.shape == (7, 3, 1, 1)
    assert images[3].flatten().tolist() == [9, 9, 9]


def test_val_becomes_the_test_set_if_there_is_no_test_folder(tmp_path: Path) -> None:
    data = load_data(f"folder:{write_images(tmp_path / 'x', ('train', 'val'))}")
    assert len(data.test) == 6
    assert data.validation is None


def test_val_beside_test_is_the_validation_set(tmp_path: Path) -> None:
    data = load_data(f"folder:{write_images(tmp_path / 'x', ('train', 'val', 'test'))}")
    assert data.validation is not None
    splits = data.split(0.1)
    assert len(splits.train) == 6
    torch.testing.assert_close(splits.validation.images, data.validation.images)


def test_a_folder_is_mirrored_unless_the_user_forbids_it(tmp_path: Path) -> None:
    name = f"folder:{write_images(tmp_path / 'x')}"
    sources = (Source(name, mirror=mirror) for mirror in (True, False))
    mirrored, plain = (load_source(source, tmp_path).split(0.5) for source in sources)
    assert mirrored.mirror
    assert not plain.mirror
    assert mirrored.fingerprint != plain.fingerprint
    assert not load_source(Source("digits", mirror=True), tmp_path).mirror


def test_images_are_cropped_and_resized_on_demand(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "x", size=(12, 20))
    with pytest.raises(NsoptError, match="image_size="):
        load_data(f"folder:{folder}")
    assert load_data(f"folder:{folder}", image_size=16).image_size == 16


@pytest.mark.parametrize("odd", ["train/ant/1.png", "test/bee/2.png"])
@pytest.mark.parametrize("size", [(16, 16), (8, 6)])
def test_an_image_of_another_size_is_named(odd: str, size: tuple[int, int], tmp_path: Path) -> None:
    folder = write_images(tmp_path / "x")
    Image.new("RGB", size).save(folder / odd)
    with pytest.raises(NsoptError, match=rf"{odd}: images are not all .* image_size="):
        load_data(f"folder:{folder}")
    assert load_data(f"folder:{folder}", image_size=8).image_size == 8


def write_undivided(root: Path) -> Path:
    """Write class folders without a split, of ten images that differ in their first pixel."""
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(root / name / f"{index}.png")
    return root


def test_an_undivided_folder_is_always_split_alike(tmp_path: Path) -> None:
    name = f"folder:{write_undivided(tmp_path / 'flat')}"

    def divide(split: float) -> list[list[int]]:
        data = load_data(name, split=split)
        return [part.images[:, 0, 0, 0].tolist() for part in (data.train, data.test)]

    train, test = divide(0.8)
    assert (len(train), len(test)) == (16, 4)
    assert sorted(train[:8] + test[:2]) == sorted(train[8:] + test[2:]) == list(range(10))
    assert divide(0.8) == [train, test]
    assert [len(part) for part in divide(0.999)] == [18, 2]


def test_a_folder_with_only_train_is_split_too(tmp_path: Path) -> None:
    data = load_data(f"folder:{without_test(tmp_path)}", split=0.5)
    assert (len(data.train), len(data.test)) == (4, 2)


@pytest.mark.parametrize(
    ("split", "message"),
    [(1.5, "split= must be between 0 and 1, got 1.5"), (0.5, "has test/ or val/ already")],
)
def test_an_invalid_split_raises_an_error(tmp_path: Path, split: float, message: str) -> None:
    folder = without_test(tmp_path) if split > 1 else write_images(tmp_path / "x")
    with pytest.raises(NsoptError, match=message):
        load_data(f"folder:{folder}", split=split)


def test_only_folders_can_be_split() -> None:
    with pytest.raises(NsoptError, match="leave split= and skip_corrupt= out: digits is no folder"):
        load_data("digits", split=0.5)


def damage(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:20])
    return root


def test_damaged_images_are_all_listed_or_skipped(tmp_path: Path) -> None:
    names = ("train/ant/0.png", "train/bee/2.png", "test/bee/1.png")
    name = f"folder:{damage(write_images(tmp_path / 'x'), *names)}"
    with pytest.raises(NsoptError, match="or give skip_corrupt=") as caught:
        load_data(name)
    assert all(name in str(caught.value) for name in names)
    with pytest.warns(UserWarning, match=r"left out of folder:.*0\.png is not a complete image"):
        data = load_data(name, skip_corrupt=True)
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.train.images[:2].max() < 100 <= data.train.images[2:].min()
    assert all(name in entry for name, entry in zip(names, data.skipped, strict=True))


def test_data_check_splits_and_lists_skipped_images(tmp_path: Path) -> None:
    folder = damage(write_undivided(tmp_path / "flat"), "ant/3.png")
    done = call_nsopt("data", "check", f"folder:{folder}", "--split=0.8", "--skip-corrupt")
    assert done.returncode == 0, done.stderr
    assert re.search(r"1[56] training, [34] test images, 2 classes, 3x8x8", done.stdout)
    assert "left out: " in done.stdout
    assert "ant/3.png is not a complete image" in done.stdout


def test_a_class_needs_at_least_one_complete_image(tmp_path: Path) -> None:
    names = (f"test/bee/{index}.png" for index in range(3))
    folder = damage(write_images(tmp_path / "x"), *names)
    with pytest.raises(NsoptError, match="no complete image in test/bee"):
        load_data(f"folder:{folder}", skip_corrupt=True)
    damage(folder, *(f"train/{name}/{index}.png" for name in ("ant", "bee") for index in range(3)))
    with pytest.raises(NsoptError, match="no complete image in train/ant"):
        load_data(f"folder:{folder}", skip_corrupt=True)


def without_test(root: Path) -> Path:
    return write_images(root / "x", ("train",))


def empty_class(root: Path) -> Path:
    write_images(root / "x")
    for file in (root / "x/train/bee").iterdir():
        file.unlink()
    return root / "x"


def single_class(root: Path) -> Path:
    write_images(root / "x")
    for split in ("train", "test"):
        for file in (root / "x" / split / "bee").iterdir():
            file.unlink()
        (root / "x" / split / "bee").rmdir()
    return root / "x"


def odd_class(root: Path) -> Path:
    write_images(root / "x")
    (root / "x/test/bee").rename(root / "x/test/wasp")
    return root / "x"


def truncated_zip(root: Path) -> Path:
    path = pack(write_images(root / "x"), root / "x.zip")
    path.write_bytes(path.read_bytes()[:-200])
    return path


def no_zip(root: Path) -> Path:
    (root / "x.zip").write_text("hello")
    return root / "x.zip"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "no folder or zip"),
        (without_test, "neither test/ nor val/: divide it with split=0.8"),
        (empty_class, "no images in train/bee: add some, or remove the class"),
        (single_class, "at least 2 class folders"),
        (odd_class, "'bee' is not both in train/ and in test/"),
        (truncated_zip, "x.zip cannot be unpacked into .*: copy it again"),
        (no_zip, "x.zip cannot be unpacked into .*File is not a zip file"),
        (lambda root: "", "names no folder: give folder:PATH"),
    ],
)
def test_unusable_folders_raise_an_error(
    tmp_path: Path, make: Callable[[Path], Path | str], message: str
) -> None:
    with pytest.raises(NsoptError, match=message):
        load_data(f"folder:{make(tmp_path)}")


def test_a_single_class_folder_counts_as_one_class(tmp_path: Path) -> None:
    path = write_images(tmp_path / "x")
    shutil.rmtree(path / "train/bee")
    with pytest.raises(NsoptError, match=r"x/train: train/ needs at least 2 class folders, has 1"):
        load_data(f"folder:{path / 'train'}", split=0.5)


def test_a_folder_without_train_is_refused_before_its_files_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "images_in", lambda *_: pytest.fail("lists a whole disk"))
    message = "no train/ folder.*or CLASS/IMAGE and split=0.8, and image_size=64 if"
    with pytest.raises(NsoptError, match=message):
        load_data(f"folder:{tmp_path}")
