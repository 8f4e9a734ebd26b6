"""Unpack zips of images, once, into the cache folder."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from nsopt.errors import NsoptError, short_reason
from nsopt.files import cache_folder, written_beside

_ENCRYPTED = 1  # a flag of a file in a zip
_SMALL, _LARGEST_FACTOR = 2**24, 200  # most bytes of what a zip holds; or times its own size


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yield a folder: `path` itself, or what is in the zip at `path`.

    Raises:
        NsoptError: if `path` is missing, or a damaged or unsafe zip; or if the block cannot read a
            file.
    """
    try:
        if not path.is_dir() and not path.is_file():
            raise NsoptError(f"no folder or zip at {path}: check the path")
        yield path if path.is_dir() else _unpack(path)
    except OSError as error:
        raise NsoptError(
            f"{error.filename or path} cannot be read: {error.strerror}: check it"
        ) from None


def _unpack(path: Path) -> Path:
    """Return the folder of a zip in the cache folder; a zip that changed has another one."""
    status = path.stat()
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    folder = cache_folder() / "unpacked" / hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    if folder.is_dir():
        return folder
    try:
        with _open(path) as archive, written_beside(folder) as unfinished:
            unfinished.mkdir()
            archive.extractall(unfinished)
    except NsoptError:
        raise
    except Exception as error:  # zipfile raises anything for a damaged file
        if not folder.is_dir():  # otherwise another process was faster
            raise NsoptError(
                f"{path} cannot be unpacked into {folder.parent} ({short_reason(error)}): copy it "
                "again, or unpack it yourself and give the folder"
            ) from None
    return folder


def _open(path: Path) -> zipfile.ZipFile:
    """Open a zip and check names and sizes of all that it holds."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise NsoptError(f"{path} is neither a folder nor a zip: unpack it, give the folder")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises anything for a damaged file
        raise NsoptError(f"{path} is not a complete zip ({error}): copy it again") from None
    members, size = archive.infolist(), path.stat().st_size
    for member in members:
        name = PurePosixPath(member.filename)
        if member.flag_bits & _ENCRYPTED:
            raise NsoptError(f"{path}: {name} is encrypted: unpack the zip, and give the folder")
        if name.is_absolute() or ".." in name.parts:
            raise NsoptError(f"{path}: {name} lies outside the zip: remove it from the zip")
    if sum(member.compress_size for member in members) > size:
        raise NsoptError(f"{path} is not a complete zip (its files overlap): copy it again")
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(_SMALL, _LARGEST_FACTOR * size):
        raise NsoptError(
            f"{path} would unpack to {unpacked:,} bytes, too many for images: remove what is large"
        )
    return archive
