"""Cache decoded data sets as memory-mapped arrays.

The cache is in `$XDG_CACHE_HOME/nsopt` (by default `~/.cache/nsopt`) and may be deleted at any
time. An entry depends on the path, sizes and times of its source files, and on `_VERSION`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nsopt.data.images import ImageData, ImageSet
from nsopt.data.places import walk
from nsopt.files import cache_folder, make_unfinished_folder

_META = "meta.json"
_VERSION = 3  # add 1 when the same files are read differently


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
    return digest.hexdigest()[:32]


def _load(entry: Path) -> ImageData | None:
    """Load an entry; None if it is missing or damaged."""
    try:
        meta = json.loads((entry / _META).read_text(encoding="utf-8"))
        sets = {part: _load_set(entry, part) for part in meta["parts"]}
        return ImageData(
            name=meta["name"],
            classes=tuple(meta["classes"]),
            train=sets["train"],
            test=sets["test"],
            validation=sets.get("validation"),
            mirror=meta["mirror"],
            skipped=tuple(meta.get("skipped", ())),
        )
    except Exception:  # numpy and json raise anything for a damaged file
        return None


def _load_set(entry: Path, part: str) -> ImageSet:
    """Map a set into memory: pages load on demand, changes stay in memory (copy on write)."""
    images, labels = (
        np.load(entry / f"{part}-{name}.npy", mmap_mode="c", allow_pickle=False)
        for name in ("images", "labels")
    )
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels))


def _store(data: ImageData, entry: Path) -> None:
    """Write or replace an entry atomically. If the disk is full, nothing is cached."""
    parts = {"train": data.train, "test": data.test}
    if data.validation is not None:
        parts["validation"] = data.validation
    meta = {
        "name": data.name,
        "classes": data.classes,
        "mirror": data.mirror,
        "skipped": data.skipped,
        "parts": list(parts),
    }
    unfinished = None
    try:
        unfinished = make_unfinished_folder(entry.parent)
        for part, images in parts.items():
            _save(unfinished / f"{part}-images.npy", images.images)
            _save(unfinished / f"{part}-labels.npy", images.labels)
        (unfinished / _META).write_text(json.dumps(meta), encoding="utf-8")
        shutil.rmtree(entry, ignore_errors=True)
        unfinished.rename(entry)
    except OSError:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


def _save(path: Path, tensor: Tensor) -> None:
    """Write to the disk (fsync), so that a power failure leaves no file of zeros."""
    with path.open("wb") as file:
        np.save(file, tensor.numpy())
        file.flush()
        os.fsync(file.fileno())
