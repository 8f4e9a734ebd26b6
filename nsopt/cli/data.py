"""`nsopt data`: list, fetch and check data sets."""

from typing import Annotated

from cyclopts import App, Parameter

from nsopt.cli.console import console, name_options
from nsopt.cli.options import DataDirOptions, ReadingOptions
from nsopt.data.source import DESCRIPTIONS, Source

Name = Annotated[str, Parameter(help="A name that `nsopt data list` prints.")]

app = App(name="data", help="List, fetch and check data sets.")


@app.command(name="list")
def list_names() -> None:
    """Print the names that --data takes."""
    for name, description in DESCRIPTIONS.items():
        console.print(f"{name:24} {name_options(description)}", soft_wrap=True)


@app.command
def fetch(
    name: Name, *, options: Annotated[DataDirOptions, Parameter(name="*")] = DataDirOptions()
) -> None:
    """Download a data set and check it."""
    from nsopt.data.registry import fetch_data

    fetch_data(name, options.data_dir)
    console.print(f"{name} is in {options.data_dir}", soft_wrap=True)


@app.command
def check(name: Name, *, options: ReadingOptions = ReadingOptions()) -> None:
    """Read a data set as a study does, and print its numbers of images and classes."""
    from nsopt.data.registry import load_source

    size, split = options.image_size, options.split
    source = Source(name, size, split=split, skip_corrupt=options.skip_corrupt)
    data = load_source(source, options.data_dir)
    validation = f"{len(data.validation)} validation, " if data.validation else ""
    console.print(
        f"{data.name}: {len(data.train)} training, {validation}{len(data.test)} test images, "
        f"{len(data.classes)} classes, {data.channels}x{data.image_size}x{data.image_size}",
        soft_wrap=True,
    )
    if data.skipped:
        console.print(f"left out: {'; '.join(data.skipped)}", soft_wrap=True)
