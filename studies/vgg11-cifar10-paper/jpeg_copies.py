"""What the first JPEG copy of 32x32 images costs a small network, and what a second one.

The originals are images of Tiny ImageNet, 64x64, halved to 32x32: of their own compression that
leaves little. They are JPEG files themselves, and some hundred of their classes are grouped into
ten by hand. A copy is a JPEG of quality 75 with halved colour resolution, as CIFAR-10 comes in this
study; a second copy is shifted by five pixels, so that its blocks are others. Training and test
images are of the same kind. Prints a line of CSV for every training of the uniform 0.25x VGG11.

    OMP_NUM_THREADS=1 python jpeg_copies.py path/to/tiny-imagenet-200.zip > jpeg_copies.csv
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import product
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image

import nsopt

SEEDS, COPIES = 3, 3
SETTINGS = nsopt.TrainSettings(epochs=30, batch_size=64, lr=0.05, val_fraction=0.02)
WIDTHS = (16, 32, 64, 64, 128, 128, 128, 128)
SHIFT = 5
GROUPS = {
    "dog": "n02085620 n02094433 n02099601 n02099712 n02106662 n02113799",
    "cat": "n02123045 n02123394 n02124075 n02125311 n02129165",
    "hoofed": "n02395406 n02403003 n02410509 n02415577 n02423022 n02437312",
    "insect": "n02165456 n02190166 n02206856 n02226429 n02231487 n02233338 n02236044 n02268443 "
    "n02279972 n02281406",
    "bird": "n01855672 n02002724 n02056570 n02058221",
    "reptile or frog": "n01629819 n01641577 n01644900 n01698640 n01742172",
    "vehicle": "n02814533 n02917067 n03100240 n03444034 n03670208 n03796401 n03977966 n04146614 "
    "n04285008 n04465501 n04487081",
    "food": "n07579787 n07583066 n07614500 n07615774 n07695742 n07711569 n07715103 n07720875 "
    "n07747607 n07749582 n07753592 n07768694 n07871810 n07873807 n07875152",
    "clothes": "n02669723 n02730930 n02837789 n02963159 n03404251 n03617480 n03763968 n03770439 "
    "n03980874 n04371430 n04532106",
    "building or landscape": "n02793495 n03042490 n03160309 n03837869 n04311004 n04366367 "
    "n04486054 n04532670 n04562935 n09193705 n09246464 n09332890 n09428293",
}
LABELS = {wnid: label for label, wnids in enumerate(GROUPS.values()) for wnid in wnids.split()}


def halved(archive: ZipFile, name: str) -> np.ndarray:
    """An image of the archive, uint8 (32, 32, 3)."""
    image = Image.open(BytesIO(archive.read(name))).convert("RGB")
    return np.asarray(image.resize((32, 32), Image.Resampling.BOX))


def read(archive: ZipFile) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test images of the ten groups, uint8 (N, 32, 32, 3), and their labels."""
    names = sorted(name for name in archive.namelist() if name.endswith(".JPEG"))
    train = [(name, LABELS.get(name.split("/")[2])) for name in names if "/train/" in name]
    notes = next(name for name in archive.namelist() if name.endswith("val_annotations.txt"))
    wnids = dict(line.split("\t")[:2] for line in archive.read(notes).decode().splitlines())
    test = [(name, LABELS.get(wnids[Path(name).name])) for name in names if "/val/" in name]
    return [
        (
            np.stack([halved(archive, name) for name, label in part if label is not None]),
            np.array([label for _, label in part if label is not None]),
        )
        for part in (train, test)
    ]


def copied(image: np.ndarray, shift: int) -> np.ndarray:
    """A JPEG copy whose blocks begin `shift` pixels before the image, uint8 (32, 32, 3)."""
    moved = np.pad(image, ((shift, 0), (shift, 0), (0, 0)), mode="edge")
    file = BytesIO()
    Image.fromarray(moved).save(file, "JPEG", quality=75, subsampling="4:2:0")
    return np.asarray(Image.open(file))[shift:, shift:]


def main() -> None:
    with ZipFile(sys.argv[1]) as archive:
        parts = read(archive)
    data = []
    for copies in range(COPIES):
        if copies:
            shift = SHIFT * (copies - 1)
            parts = [(np.stack([copied(image, shift) for image in x]), y) for x, y in parts]
        data.append(nsopt.ImageData.from_arrays(*parts, classes=tuple(GROUPS)))
    print(*(f"{len(x)} images" for x, _ in parts), sep=", ", file=sys.stderr)
    arch = nsopt.get_architecture("vgg11", num_classes=len(GROUPS))

    def trained(run: tuple[int, int]) -> nsopt.Outcome:
        seed, copies = run
        return nsopt.train(arch, WIDTHS, data[copies], SETTINGS.updated(seed=seed))

    print("seed,copies,test_accuracy,train_loss,seconds")
    runs = list(product(range(SEEDS), range(COPIES)))
    with ThreadPoolExecutor(2) as pool:
        for run, outcome in zip(runs, pool.map(trained, runs), strict=True):
            print(
                *run,
                f"{outcome.test_accuracy:.2f}",
                f"{outcome.losses[-1]:.3f}",
                f"{outcome.seconds:.0f}",
                sep=",",
                flush=True,
            )


if __name__ == "__main__":
    main()
