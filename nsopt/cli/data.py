"""`nsopt data`: list, fetch and check data sets."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from nsopt.cli.console import console, name_options
from nsopt.cli.options import Count, CountFrom0
from nsopt.data.source import DESCRIPTIONS, Source

Name = Annotated[str, Parameter(help="A name that `nsopt data list` prints.")]
DataDir = Annotated[Path, Parameter(help="Folder of downloaded data sets.")]
ImageSize = Annotated[Count | None, Parameter(help="Resize images to this side, in pixels.")]
Split = Annotated[
    float | None, Parameter(help="Train on this part of each class, if train/ is missing.")
]
SplitSeed = Annotated[CountFrom0, Parameter(help="Random seed of --split.")]
SkipCorrupt = Annotated[bool, Parameter(help="Leave out images that are not complete.")]

app = App(name="data", help="List, fetch and check data sets.")


@app.command(name="list")
def list_names() -> None:
    """Print the names that --data takes."""
    for name, description in DESCRIPTIONS.items():
        console.print(f"{name:24} {name_options(description)}", soft_wrap=True)


@app.command
def fetch(name: Name, *, data_dir: DataDir = Path("data")) -> None:
    """Download a data set and check it."""
    from nsopt.data.registry import fetch_data

    fetch_data(name, data_dir)
    console.print(f"{name} is in {data_dir}", soft_wrap=True)


@app.command
def check(
    name: Name,
    *,
    data_dir: DataDir = Path("data"),
    image_size: ImageSize = None,
    split: Split = None,
    split_seed: SplitSeed = 0,
    skip_corrupt: SkipCorrupt = False,
) -> None:
    """Read a data set as a study does, and print its numbers of images and classes."""
    from nsopt.data.registry import load_source

    source = Source(name, image_size, split=split, split_seed=split_seed, skip_corrupt=skip_corrupt)
    data = load_source(source, data_dir)
    validation = f"{len(data.validation)} validation, " if data.validation else ""
    console.print(
        f"{data.name}: {len(data.train)} training, {validation}{len(data.test)} test images, "
        f"{len(data.classes)} classes, {data.channels}x{data.image_size}x{data.image_size}",
        soft_wrap=True,
    )
    if data.skipped:
        console.print(f"left out: {'; '.join(data.skipped)}", soft_wrap=True)
