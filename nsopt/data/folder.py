"""Read an image folder, or a zip of one: train/ and test/ (or val/) with a folder per class.

Sub-folders belong to the class around them.

If there are both test/ and val/, val/ is the validation set. If there are only class folders, a
seed divides their images into training and test images.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nsopt.data.archive import opened
from nsopt.data.arrays import read_normalisation
from nsopt.data.images import PIXEL_RANGE, ImageData
from nsopt.data.pictures import (
    LeftOut,
    decode,
    folders_in,
    has_image_suffix,
    images_in,
    other_size,
    refuse_damaged,
)
from nsopt.data.source import FOLDER_PREFIX, Source, folder_path
from nsopt.errors import NsoptError
from nsopt.isolation import public

_PARTS = ("train", "test", "val")
_MOST = 1280  # images without classes, more than a fit and its score need


@public
def load_images(
    folder: Path | str,
    image_size: int | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    most: int = _MOST,
) -> Tensor:
    """Return the images in a folder or a zip, and in its sub-folders: inputs of a network.

    They need no classes. `nsopt.fit` takes them as they are, `nsopt.Task` in batches.

    Args:
        folder: a folder, or a zip of one.
        image_size: side in pixels. Images are cropped to their central square and resized. None
            keeps their size; they must then be square and all of one size.
        mean: mean of each channel of pixels from 0 to 1, by which images are normalised as in the
            training of the network.
        std: standard deviation of each channel.
        most: number of images; of more, a random choice at a fixed seed.

    Returns:
        RGB images, (N, 3, side, side), float32.

    Raises:
        NsoptError: for a missing or empty folder, damaged images, images of different sizes, or a
            mean that is not of pixels from 0 to 1.

    Examples:
        >>> photos = nsopt.load_images("photos", 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        >>> task = nsopt.Task(photos.split(64), name="photos")
    """
    path, shape = Path(folder).expanduser(), (3, 1, 1)
    mean, std = read_normalisation(mean, std, channels=3)
    if most < 1 or (image_size is not None and image_size < 1):
        raise NsoptError("image_size and most must be at least 1")
    with opened(path) as place:
        files = images_in(place, LeftOut())
        if not files:
            raise NsoptError(f"{path}: no images: give a folder of images")
        order = np.random.default_rng(0).permutation(len(files))[:most]
        images, damaged = decode([[files[i] for i in sorted(order)]], image_size, LeftOut())
    refuse_damaged(damaged, path, "replace or remove them")
    pixels = images.images.float() / PIXEL_RANGE
    return (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def load_folder(source: Source) -> ImageData:
    """Load the images of `folder:PATH`, where PATH is a folder or a zip of one, as RGB.

    Images are cropped to their central square and resized to `image_size`. Without a size they must
    be square and all of one size.

    Raises:
        NsoptError: for a missing, empty, damaged or inconsistent folder.
    """
    path = folder_path(source.name)
    sets, damaged, left_out = {}, list[str](), LeftOut()
    with opened(path) as place:
        parts = _find_parts(_enter(place), path, source, left_out)
        for part, files in parts.items():
            sets[part], broken = decode(list(files.values()), source.image_size, left_out)
            damaged += broken
    if not source.skip_corrupt:
        refuse_damaged(damaged, path, "replace or remove them, or give skip_corrupt=")
    classes = tuple(parts["train"])
    for part, images in sets.items():
        counts = images.labels.bincount(minlength=len(classes))
        if not counts.all():
            empty = classes[int(counts.argmin())]
            raise NsoptError(f"{path}: no complete image in {part}/{empty}: add some")
        if images.shape != sets["train"].shape:
            raise other_size(path / part)
    named = path.resolve() if path.name in ("", "..") else path
    name = named.stem if named.suffix.lower() == ".zip" else named.name
    return ImageData(
        name=FOLDER_PREFIX + name.encode("utf-8", "replace").decode(),  # as UTF-8 can hold it
        classes=classes,
        train=sets["train"],
        test=sets["test"] if "test" in sets else sets["val"],
        validation=sets.get("val") if "test" in sets else None,
        skipped=(*damaged, *(f"{what}: {count:,}" for what, count in left_out.items() if count)),
    )


def _find_parts(
    root: Path, path: Path, source: Source, left_out: LeftOut
) -> dict[str, dict[str, list[Path]]]:
    """Return the images of train, test and val by class."""
    if source.split is not None:
        return _divide(root, path, source.split, source.split_seed, left_out)
    if not (root / "train").is_dir():
        also = "" if source.image_size else ", and image_size=64 if their sizes differ"
        raise NsoptError(
            f"{path} has no train/ folder: expected train/CLASS/IMAGE and test/CLASS/IMAGE, or "
            f"CLASS/IMAGE and split=0.8{also}"
        )
    parts = {
        part: _list_class_files(root / part, path, left_out)
        for part in _PARTS
        if (root / part).is_dir()
    }
    _count_others(root, _PARTS, left_out)
    if len(parts) == 1:
        raise NsoptError(
            f"{path} has train/ but neither test/ nor val/ beside it: divide it with split=0.8"
        )
    for part, files in parts.items():
        for odd in sorted(set(files) ^ set(parts["train"])):
            raise NsoptError(f"{path}: class folder {odd!r} is not both in train/ and in {part}/")
    return parts


def _divide(
    root: Path, path: Path, fraction: float, seed: int, left_out: LeftOut
) -> dict[str, dict[str, list[Path]]]:
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


def _enter(root: Path) -> Path:
    """Return `root`, or its only folder if that has folders: archives often have one on top."""
    folders = folders_in(root)
    if len(folders) != 1 or folders[0].name == "train" or not folders_in(folders[0]):
        return root
    return folders[0]


def _list_class_files(split: Path, path: Path, left_out: LeftOut) -> dict[str, list[Path]]:
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


def _count_others(folder: Path, known: Collection[str], left_out: LeftOut) -> None:
    """Count images and folders in `folder` that are not in one of its `known` folders."""
    left_out["images outside class folders"] += sum(
        has_image_suffix(entry) and entry.is_file() for entry in folder.iterdir()
    )
    for subfolder in folders_in(folder):
        if subfolder.name not in known:
            left_out[f"images in {subfolder.name}/"] += len(images_in(subfolder, LeftOut()))
