"""Damaged and malicious folders and zips cause a one-line error that names the file."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from nsopt import NsoptError, load_data
from nsopt.files import cache_folder
from tests.conftest import one_line
from tests.data.test_folder import pack, write_images

BAD = "train/ant/bad.png"


def broken_link(bad: Path) -> None:
    bad.symlink_to("nowhere.png")


def looping_link(bad: Path) -> None:
    bad.symlink_to(bad.name)


def pipe(bad: Path) -> None:
    os.mkfifo(bad)


def large_bomb(bad: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(bad)


def text_bomb(bad: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("note", "x" * 2**21, zip=True)
    Image.new("RGB", (8, 8)).save(bad, pnginfo=notes)


def program(bad: Path) -> None:
    """Write a file for which Pillow would start Ghostscript."""
    bad.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (broken_link, "a broken link, or no file"),
        (looping_link, "a broken link, or no file"),
        (pipe, "a broken link, or no file"),
        (large_bomb, "exceeds limit of"),
        (text_bomb, "too large"),
        (program, r"cannot identify image file\)"),
    ],
)
def test_a_bad_image_causes_a_one_line_error(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    root = write_images(tmp_path / "x")
    make(root / BAD)
    with one_line(rf"bad\.png is not a complete image .*{reason}"):
        load_data(f"folder:{root}", image_size=8)


def test_broken_links_beside_the_images_are_ignored(tmp_path: Path) -> None:
    root = write_images(tmp_path / "x")
    (root / "notes").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    (root / "train/ant/again").symlink_to("..")
    (root / os.fsdecode(b"not-utf8-\xff.txt")).touch()
    os.mkfifo(root / "train/ant/pipe")
    with pytest.warns(UserWarning, match=r"other files, which Pillow does not read: 1$"):
        assert len(load_data(f"folder:{root}").train) == 6


@pytest.mark.parametrize("make", [pipe, looping_link, broken_link])
def test_neither_folder_nor_zip_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x.zip")
    with one_line(r"no folder or zip at .*x\.zip"):
        load_data(f"folder:{tmp_path / 'x.zip'}")


def packed(tmp_path: Path) -> Path:
    return pack(write_images(tmp_path / "x"), tmp_path / "x.zip")


def encrypted(tmp_path: Path) -> Path:
    path = packed(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    return path


def of_an_unknown_method(tmp_path: Path) -> Path:
    path = packed(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 8] = 97
    content[content.index(b"PK\x01\x02") + 10] = 97
    path.write_bytes(content)
    return path


def with_damaged_bytes(tmp_path: Path) -> Path:
    path = packed(tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(BAD, bytes(5000))
        offset = archive.getinfo(BAD).header_offset
    content = bytearray(path.read_bytes())
    content[offset + 30 + len(BAD)] = 0xFF
    path.write_bytes(content)
    return path


def add(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"content")
    return path


def with_a_file_for_a_folder(tmp_path: Path) -> Path:
    return add(packed(tmp_path), "train/ant/0.png/bad.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (encrypted, r"x\.zip cannot be unpacked .*is encrypted"),
        (of_an_unknown_method, r"x\.zip cannot be unpacked .*\(That compression method"),
        (with_damaged_bytes, r"x\.zip cannot be unpacked into .*\(Error -3.*: copy it again"),
        (with_a_file_for_a_folder, r"x\.zip cannot be unpacked into .*unpack it yourself"),
    ],
)
def test_a_bad_zip_causes_a_one_line_error(
    make: Callable[[Path], Path], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(NsoptError, match=message):
        load_data(f"folder:{make(tmp_path)}", image_size=8)
    assert not [file for file in cache_folder().rglob("*") if file.is_file()]


def test_a_zip_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = packed(tmp_path)
    assert len(load_data(f"folder:{path}").train) == 6
    (unpacked,) = (cache_folder() / "unpacked").iterdir()
    inodes = {file: file.stat().st_ino for file in unpacked.rglob("*")}
    assert len(load_data(f"folder:{path}").train) == 6
    assert {file: file.stat().st_ino for file in unpacked.rglob("*")} == inodes
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(tmp_path / "x/train/ant/0.png", "train/ant/more.png")
    assert len(load_data(f"folder:{path}").train) == 7


def test_a_zip_needs_a_writable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NsoptError, match=r"cannot be unpacked into .*unpack it yourself"):
        load_data(f"folder:{packed(tmp_path)}")
    assert len(load_data(f"folder:{tmp_path / 'x'}").train) == 6
