"""Find images in folders and zips.

Files of a zip are read without unpacking, so no name in a zip can write elsewhere. zipfile checks
every checksum.
"""

import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from PIL import Image

from nsopt.errors import NsoptError

Place = Path | zipfile.Path
LeftOut = Counter[str]  # how many files or images were left out, by reason
_REFUSED = frozenset(  # formats that Pillow only names, or for which it would start a program
    {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
)
_WRITTEN = "PALM", "PDF"  # formats that Pillow writes, and does not read
_ENCRYPTED = 1  # a flag of a file in a zip
_SMALL, _LARGEST_FACTOR = 2**24, 200  # most bytes of a file in a zip; or times its packed size


@contextmanager
def open_place(path: Path) -> Iterator[Place]:
    """Open a folder or a zip. Raises NsoptError if it is missing, damaged or unsafe."""
    try:
        if path.is_dir():
            yield path
        elif path.is_file():
            with _open_zip(path) as archive:
                yield zipfile.Path(archive)
        else:
            raise NsoptError(f"no folder or zip at {path}: check the path")
    except OSError as error:
        raise NsoptError(f"{error.filename or path} cannot be read: {error.strerror}") from None


def _open_zip(path: Path) -> zipfile.ZipFile:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise NsoptError(f"{path} is neither a folder nor a zip: unpack it, give the folder")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises anything for a damaged file
        raise NsoptError(f"{path} is not a complete zip ({error}): copy it again") from None
    members = archive.infolist()
    for member in members:
        name = f"{path}: {member.filename}"
        if member.flag_bits & _ENCRYPTED:
            raise NsoptError(f"{name} is encrypted: unpack the zip, and give the folder")
        if member.file_size > max(_SMALL, _LARGEST_FACTOR * member.compress_size):
            raise NsoptError(
                f"{name} would unpack to {member.file_size:,} bytes, too many for an image: "
                "remove it from the zip"
            )
    if sum(member.compress_size for member in members) > path.stat().st_size:
        raise NsoptError(f"{path} is not a complete zip (its files overlap): copy it again")
    return archive


def images_in(folder: Place, left_out: LeftOut) -> list[Place]:
    """Return the images in a folder and in its sub-folders, sorted by name.

    A file is an image if its suffix names a format that Pillow reads, or if Pillow recognises what
    is in it.

    Args:
        left_out: counts the files that are no images, by suffix, and hidden images.

    Raises:
        NsoptError: if the folder is missing.
    """
    if not folder.is_dir():
        raise NsoptError(f"the folder {folder} is missing: fetch or copy the data again")
    images = dict[tuple[str, ...], Place]()
    for names, entry in _list_files(folder):
        if any(_is_metadata(name) for name in names):
            left_out["hidden images"] += has_image_suffix(entry)
        elif has_image_suffix(entry) or _is_recognised(entry):
            images[names] = entry
        else:
            suffix = Path(entry.name).suffix.lower()
            left_out[f"{suffix or 'other'} files in which Pillow finds no image"] += 1
    return [images[names] for names in sorted(images)]


def folders_in(folder: Place) -> list[Place]:
    """Return the folders in a folder, sorted by name, without hidden ones and macOS metadata."""
    folders = [e for e in list_children(folder) if e.is_dir() and not _is_metadata(e.name)]
    return sorted(folders, key=lambda entry: entry.name)


def list_children(folder: Place) -> Iterator[Place]:
    """Yield the entries of a folder.

    For a zip, `iterdir` would make an object for each file of the zip, in every folder.
    """
    if isinstance(folder, Path):
        yield from folder.iterdir()
        return
    start = folder.at
    for name in folder.root.namelist():
        if name.startswith(start) and "/" not in name[len(start) : -1] and name != start:
            yield zipfile.Path(folder.root, name)


def walk(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield all files below a folder, also behind links, but never a folder inside itself."""
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        place = Path(parent)
        try:
            around = {place.resolve(), *place.resolve().parents}
            folders[:] = [name for name in folders if (place / name).resolve() not in around]
        except OSError as error:  # the folder is gone, or may not be read
            folders.clear()
            if on_error:
                on_error(error)
        yield from (place / name for name in files)


def has_image_suffix(entry: Place) -> bool:
    """Return whether the suffix of a file names a format that nsopt reads."""
    return _format_of(entry) not in (None, *_REFUSED, *_WRITTEN)


def read_formats(entry: Place) -> list[str]:
    """Return the formats in which Pillow may read a file.

    Formats without a signature count only if the suffix names them.
    """
    by_suffix = _format_of(entry)
    return [
        name
        for name, (_, accept) in Image.OPEN.items()
        if name not in _REFUSED and (accept or name == by_suffix)
    ]


def _format_of(entry: Place) -> str | None:
    return Image.registered_extensions().get(Path(entry.name).suffix.lower())


def _is_recognised(entry: Place) -> bool:
    """Return whether Pillow recognises a file by its first bytes."""
    try:
        if not entry.is_file():
            return False
        with entry.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(file, formats=read_formats(entry)).close()
    except Image.DecompressionBombError:
        return True  # `decode` names it
    except Exception:  # Pillow and zipfile raise anything for a damaged or hostile file
        return False
    return True


def _list_files(folder: Place) -> Iterator[tuple[tuple[str, ...], Place]]:
    """Yield the files below a folder with the parts of their names."""
    if isinstance(folder, Path):
        for path in walk(folder, _raise):
            yield path.relative_to(folder).parts, path
        return
    for name in folder.root.namelist():
        if name.startswith(folder.at) and not name.endswith("/"):
            names = PurePosixPath(name[len(folder.at) :]).parts
            yield names, zipfile.Path(folder.root, name)


def _raise(error: OSError) -> None:
    raise error


def _is_metadata(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # Finder adds the latter to every zip
