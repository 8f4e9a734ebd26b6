"""Cache decoded data sets as files that are mapped into memory.

The cache is in `$XDG_CACHE_HOME/nsopt` (by default `~/.cache/nsopt`) and may be deleted at any
time. An entry depends on the path, sizes and times of its source files, and on `_VERSION`.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from nsopt.data.images import ImageData, ImageSet
from nsopt.data.places import walk
from nsopt.files import cache_folder, open_whole, remove_unfinished

_VERSION = 4  # add 1 when the same files are read differently


def load_cached(path: Path, variant: str, read: Callable[[], ImageData]) -> ImageData:
    """Return the data that `read` reads from `path`, from the cache if possible.

    Args:
        variant: distinguishes several cached versions of the same files.
    """
    if not path.exists():
        return read()
    entry = cache_folder() / _fingerprint(path, variant)
    known = _load(entry)
    if known is not None:
        return known
    data = read()
    _store(data, entry)
    return _load(entry) or data


def _fingerprint(path: Path, variant: str) -> str:
    files = sorted(walk(path)) if path.is_dir() else [path]
    digest = hashlib.sha256(os.fsencode(f"{_VERSION} {path.resolve()} {variant}"))
    for file in files:
        try:
            status = file.stat()
        except OSError:
            status = file.lstat()  # of a broken link itself
        seen = f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ino}"  # moved: its number
        digest.update(os.fsencode(f"{seen}\n"))
    return f"{digest.hexdigest()[:32]}.pt"


def _load(entry: Path) -> ImageData | None:
    """Map an entry into memory: pages load on demand, changes stay in memory (copy on write).

    None if it is missing or damaged.
    """
    try:
        content = torch.load(entry, mmap=True, weights_only=True)
        sets: dict[str, Any] = {part: ImageSet(*pair) for part, pair in content.pop("sets").items()}
        return ImageData(**content, **sets)
    except Exception:  # torch raises anything for a damaged file
        return None


def _store(data: ImageData, entry: Path) -> None:
    """Write or replace an entry atomically. If the disk is full, nothing is cached."""
    sets = {"train": data.train, "test": data.test, "validation": data.validation}
    pairs = {part: (kept.images, kept.labels) for part, kept in sets.items() if kept is not None}
    facts = {name: getattr(data, name) for name in ("name", "classes", "mirror", "skipped")}
    remove_unfinished(entry, others=True)
    with suppress(OSError, RuntimeError), open_whole(entry) as file:
        torch.save(facts | {"sets": pairs}, file)
