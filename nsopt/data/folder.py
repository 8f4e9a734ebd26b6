"""Any image folder, or a zip of one: train/ and test/ (or val/) with a folder per class.

If there are both test/ and val/, val/ is the validation set.
"""

from pathlib import Path

from nsopt.data.cache import load_cached
from nsopt.data.decode import Place, common_size, decode, folders_in, images_in, open_place
from nsopt.data.images import ImageData
from nsopt.data.source import FOLDER_PREFIX
from nsopt.errors import NsoptError


def load_folder(path: Path, image_size: int | None = None) -> ImageData:
    """Load the images below `path`, a folder or a zip of one, as RGB.

    image_size: crop images to their central square and resize it to this side, in pixels; None
    keeps their size, which must be square and equal for all.
    Raises NsoptError for a missing, empty, damaged or inconsistent folder.
    """
    return load_cached(path, f"folder {image_size}", lambda: _load(path, image_size))


def _load(path: Path, image_size: int | None) -> ImageData:
    with open_place(path) as place:
        root = _descend_to_train(place, path)
        splits = {
            part: _class_files(root / part, path)
            for part in ("train", "test", "val")
            if (root / part).is_dir()
        }
        classes = _same_classes(splits, path)
        firsts = [entries[0] for entries in splits["train"].values()]
        size = image_size or common_size(firsts, path)
        sets = {part: decode(list(files.values()), size, path) for part, files in splits.items()}
    return ImageData(
        name=f"{FOLDER_PREFIX}{path.stem if path.suffix == '.zip' else path.name}",
        classes=classes,
        train=sets["train"],
        test=sets["test"] if "test" in sets else sets["val"],
        validation=sets.get("val") if "test" in sets else None,
    )


def _descend_to_train(root: Place, path: Path) -> Place:
    """Return `root`, or its only folder: archives often have one."""
    if (root / "train").is_dir():
        return root
    folders = folders_in(root)
    if len(folders) == 1 and (folders[0] / "train").is_dir():
        return folders[0]
    raise NsoptError(
        f"{path} has no train/ folder: expected train/CLASS/IMAGE and test/CLASS/IMAGE"
    )


def _class_files(split: Place, path: Path) -> dict[str, list[Place]]:
    files = {folder.name: images_in(folder) for folder in folders_in(split)}
    empty = [name for name, entries in files.items() if not entries]
    if len(files) < 2:
        raise NsoptError(f"{path}: {split.name}/ needs at least 2 class folders, has {len(files)}")
    if empty:
        raise NsoptError(f"{path}: no images in {split.name}/{empty[0]}")
    return files


def _same_classes(splits: dict[str, dict[str, list[Place]]], path: Path) -> tuple[str, ...]:
    if len(splits) == 1:
        raise NsoptError(f"{path} has train/ but neither test/ nor val/ beside it")
    classes = tuple(splits["train"])
    for part, files in splits.items():
        if tuple(files) != classes:
            odd = sorted(set(files) ^ set(classes))[0]
            raise NsoptError(f"{path}: class folder {odd!r} is not both in train/ and in {part}/")
    return classes
