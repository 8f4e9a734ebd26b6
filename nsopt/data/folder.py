"""Read an image folder, or a zip of one: train/ and test/ (or val/) with a folder per class.

Sub-folders belong to the class around them.

If there are both test/ and val/, val/ is the validation set. If there are only class folders, a
seed divides their images into training and test images.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from nsopt.data.cache import load_cached
from nsopt.data.decode import common_size, decode, refuse_damaged
from nsopt.data.images import ImageData
from nsopt.data.places import (
    LeftOut,
    Place,
    folders_in,
    has_image_suffix,
    images_in,
    list_children,
    open_place,
)
from nsopt.data.source import FOLDER_PREFIX, Source, folder_path
from nsopt.errors import NsoptError

_PARTS = ("train", "test", "val")


def load_folder(source: Source) -> ImageData:
    """Load the images of `folder:PATH`, where PATH is a folder or a zip of one, as RGB.

    Images are cropped to their central square and resized to `image_size`. Without a size they must
    be square and all of one size.

    Raises:
        NsoptError: for a missing, empty, damaged or inconsistent folder.
    """
    path = folder_path(source.name)
    if path.is_dir() and source.split is None:  # before the cache asks for the time of every file
        _check_train(_enter(path), path)
    variant = f"folder {source.image_size} {source.split} {source.split_seed} {source.skip_corrupt}"
    return load_cached(path, variant, lambda: _load(path, source))


def _load(path: Path, source: Source) -> ImageData:
    sets, damaged, left_out = {}, list[str](), LeftOut()
    with open_place(path) as place:
        root = _enter(place)
        if source.split is None:
            splits = _find_splits(root, path, left_out)
        else:
            splits = _divide(root, path, source.split, source.split_seed, left_out)
        classes = tuple(splits["train"])
        groups = [group for files in splits.values() for group in files.values()]
        size = source.image_size or common_size(groups, path)
        for part, files in splits.items():
            grouped = list(files.values())
            sets[part], broken = decode(grouped, size, left_out, resize=bool(source.image_size))
            damaged += broken
    if not source.skip_corrupt:
        refuse_damaged(damaged, path, "replace or remove what is damaged, or give skip_corrupt=")
    for part, images in sets.items():
        counts = images.labels.bincount(minlength=len(classes))
        if not counts.all():
            raise NsoptError(f"{path}: no complete image in {part}/{classes[int(counts.argmin())]}")
    return ImageData(
        name=f"{FOLDER_PREFIX}{_name_place(path)}",
        classes=classes,
        train=sets["train"],
        test=sets["test"] if "test" in sets else sets["val"],
        validation=sets.get("val") if "test" in sets else None,
        skipped=(*damaged, *(f"{what}: {count:,}" for what, count in left_out.items() if count)),
    )


def _find_splits(root: Place, path: Path, left_out: LeftOut) -> dict[str, dict[str, list[Place]]]:
    """Return the images of a folder with train/ by part and class."""
    _check_train(root, path)
    splits = {
        part: _list_class_files(root / part, path, left_out)
        for part in _PARTS
        if (root / part).is_dir()
    }
    _count_others(root, _PARTS, left_out)
    _check_classes(splits, path)
    return splits


def _check_train(root: Place, path: Path) -> None:
    if not (root / "train").is_dir():
        raise NsoptError(
            f"{path} has no train/ folder: expected train/CLASS/IMAGE and test/CLASS/IMAGE, or "
            "CLASS/IMAGE and split=0.8"
        )


def _name_place(path: Path) -> str:
    """Return the name of a folder or of a zip file, as UTF-8 can hold it."""
    named = path.resolve() if path.name in ("", "..") else path
    name = named.stem if named.suffix.lower() == ".zip" else named.name
    return name.encode("utf-8", "replace").decode()


def _divide(
    root: Place, path: Path, fraction: float, seed: int, left_out: LeftOut
) -> dict[str, dict[str, list[Place]]]:
    """Divide every class into training and test images."""
    if not 0 < fraction < 1:
        raise NsoptError(f"split= must be between 0 and 1, got {fraction:g}")
    if seed < 0:
        raise NsoptError(f"split_seed= must be 0 or more, got {seed}")
    if any((root / part).is_dir() for part in ("test", "val")):
        raise NsoptError(f"{path} has test/ or val/ already: leave split= out")
    if (root / "train").is_dir():
        _count_others(root, _PARTS, left_out)
        root = root / "train"
    files = _list_class_files(root, path, left_out)
    generator, train, test = np.random.default_rng(seed), {}, {}
    for name, entries in files.items():
        if len(entries) < 2:
            raise NsoptError(f"{path}: {name} has a single image, and split= needs two")
        order = generator.permutation(len(entries))
        count = min(max(round(fraction * len(entries)), 1), len(entries) - 1)
        train[name] = [entries[place] for place in sorted(order[:count])]
        test[name] = [entries[place] for place in sorted(order[count:])]
    return {"train": train, "test": test}


def _enter(root: Place) -> Place:
    """Return `root`, or its only folder if that has folders: archives often have one on top."""
    folders = folders_in(root)
    if len(folders) != 1 or folders[0].name == "train" or not folders_in(folders[0]):
        return root
    return folders[0]


def _list_class_files(split: Place, path: Path, left_out: LeftOut) -> dict[str, list[Place]]:
    files = {folder.name: images_in(folder, left_out) for folder in folders_in(split)}
    _count_others(split, files, left_out)
    empty = [name for name, entries in files.items() if not entries]
    if len(files) < 2:
        raise NsoptError(f"{path}: {split.name}/ needs at least 2 class folders, has {len(files)}")
    if empty:
        counts = ", ".join(f"{what}: {count:,}" for what, count in left_out.items() if count)
        note = f" (left out: {counts})" if counts else ""
        raise NsoptError(
            f"{path}: no images in {split.name}/{empty[0]}{note}: add some, or remove the class"
        )
    return files


def _count_others(folder: Place, known: Collection[str], left_out: LeftOut) -> None:
    """Count images and folders in `folder` that are not in one of its `known` folders."""
    left_out["images outside class folders"] += sum(
        has_image_suffix(entry) and entry.is_file() for entry in list_children(folder)
    )
    for subfolder in folders_in(folder):
        if subfolder.name not in known:
            left_out[f"images in {subfolder.name}/"] += len(images_in(subfolder, LeftOut()))


def _check_classes(splits: dict[str, dict[str, list[Place]]], path: Path) -> None:
    """Raise NsoptError unless there are at least two parts with the same classes."""
    if len(splits) == 1:
        raise NsoptError(
            f"{path} has train/ but neither test/ nor val/ beside it: divide it with split=0.8"
        )
    classes = set(splits["train"])
    for part, files in splits.items():
        if set(files) != classes:
            odd = sorted(set(files) ^ classes)[0]
            raise NsoptError(f"{path}: class folder {odd!r} is not both in train/ and in {part}/")
