"""The `nsopt` command."""

from pathlib import Path
from typing import Annotated

import typer

from nsopt import options
from nsopt.console import console, user_errors
from nsopt.options import given
from nsopt.study import study
from nsopt.tune import tune

# Imports inside commands keep `nsopt --help` light.
# ruff: noqa: PLC0415

app = typer.Typer(
    help="Widths for any parameter or MAC budget, from a power law found by pruning.",
    no_args_is_help=True,
    add_completion=False,
)
data_app = typer.Typer(help="List, fetch and check data sets.", no_args_is_help=True)
app.command()(study)
app.command()(tune)
app.add_typer(data_app, name="data")


@app.command()
def search(
    arch: options.Arch = "vgg11",
    data: options.Data = "digits",
    data_dir: options.DataDir = Path("data"),
    image_size: options.ImageSize = None,
    classes: options.Classes = None,
    per_class: options.PerClass = None,
    preset: options.PresetName = "smoke",
    pretrain_epochs: options.PretrainEpochs = None,
    prune_every: options.PruneEvery = None,
    filters_per_step: options.FiltersPerStep = None,
    iterations: options.Iterations = None,
    convergence: options.Convergence = None,
    lr: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    storage: options.Storage = None,
    out: options.Out = None,
) -> None:
    """Find the law of a network and store it; `study` and `widths` use it. Continues, too."""
    with user_errors():
        from nsopt.data.source import Source, Subset
        from nsopt.job import Job, run_search

        both = given(lr=lr, batch_size=batch_size, device=device, precision=precision)
        own = given(
            pretrain_epochs=pretrain_epochs,
            prune_every=prune_every,
            filters_per_step=filters_per_step,
            iterations=iterations,
            convergence=convergence,
        )
        run_search(
            Job(
                arch=arch,
                source=Source(data, image_size, Subset(classes, per_class)),
                data_dir=data_dir,
                preset=preset,
                changes={"search": both | own, "training": both},
                storage=storage,
                out=out,
            )
        )


@app.command()
def widths(
    law: Annotated[
        Path | None, typer.Option(help="JSON file of a law, or of one law per iteration.")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="Storage URL of a search instead.")] = None,
    name: Annotated[
        str | None, typer.Option(help="ARCH-DATA-PRESET, where the storage holds several.")
    ] = None,
    iteration: Annotated[
        int | None, typer.Option(help="Of architecture descent; the last by default.", min=1)
    ] = None,
    arch: options.Arch = "vgg11",
    classes: Annotated[int, typer.Option(help="Classes of the network.", min=2)] = 10,
    image_size: Annotated[int, typer.Option(help="Side of its images.", min=1)] = 32,
    channels: Annotated[int, typer.Option(help="Channels of its images.", min=1)] = 3,
    ratios: options.Ratios = None,
    budgets: options.Budgets = None,
    metric: options.Metric = "params",
    multiple_of: Annotated[int, typer.Option(help="Round widths down to multiples.", min=1)] = 1,
    min_width: Annotated[int, typer.Option(help="Narrowest layer.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Widths of a law at budgets. With --storage the network is the one that was searched."""
    with user_errors():
        from nsopt.proposals import Network, Proposal, print_widths

        print_widths(
            Proposal(
                law_file=law,
                storage=storage,
                name=name,
                iteration=iteration,
                network=Network(arch, classes, image_size, channels),
                ratios=ratios,
                budgets=budgets,
                metric=metric,
                multiple_of=multiple_of,
                min_width=min_width,
            ),
            as_json,
        )


@app.command()
def report(
    storage: Annotated[str, typer.Option(help="Optuna storage URL, such as sqlite:///study.db.")],
    out: Annotated[Path, typer.Option(help="Folder for index.html and the CSV files.")],
    name: Annotated[
        str | None, typer.Option(help="ARCH-DATA-PRESET, where several are stored.")
    ] = None,
) -> None:
    """Write the report of a stored comparison anew."""
    with user_errors():
        from nsopt.reports.page import write_report
        from nsopt.tuning.storage import storage_errors

        with storage_errors(storage):
            console.print(str(write_report(storage, out, name)), soft_wrap=True, highlight=False)


@app.command()
def dashboard(
    storage: Annotated[
        str | None,
        typer.Option(
            help="Optuna storage URL; by default the newest study in runs/.", envvar="NSOPT_STORAGE"
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to serve on; beyond 127.0.0.1 anyone may read and delete.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 8080,
    artifacts: Annotated[
        Path | None, typer.Option(help="Folder of kept weights; by default beside an SQLite file.")
    ] = None,
) -> None:
    """Browse a storage with optuna-dashboard, with the notes and figures of its studies."""
    with user_errors():
        from nsopt.reports.dashboard import serve
        from nsopt.tuning.storage import newest_storage, storage_errors

        url = storage or newest_storage(Path("runs"))
        with storage_errors(url):
            serve(url, host, port, artifacts)


@app.command()
def worker(
    storage: Annotated[
        str,
        typer.Option(help="Storage URL of a study that was started.", envvar="NSOPT_STORAGE"),
    ],
    study: Annotated[str, typer.Option("--study", help="ARCH-DATA-PRESET.")],
    data: Annotated[
        str | None, typer.Option(help="folder:PATH, where the images lie elsewhere here.")
    ] = None,
    data_dir: options.DataDir = Path("data"),
    device: options.Device = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Threads to train with; by default one a core.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for unfinished trainings; by default runs/STUDY.")
    ] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Join a study from any machine: run what waits in it until nothing is left."""
    with user_errors():
        from nsopt.join import Joining, run_worker

        run_worker(
            Joining(
                storage=storage,
                study=study,
                data=data,
                data_dir=data_dir,
                device=device,
                threads=threads,
                out=out,
                parent=parent,
            )
        )


@data_app.command("list")
def list_data() -> None:
    """Show the names that --data takes."""
    with user_errors():
        from nsopt.data.registry import DESCRIPTIONS

        for name, description in DESCRIPTIONS.items():
            console.print(f"{name:24} {description}", highlight=False, soft_wrap=True)


@data_app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A name that `nsopt data list` shows.")],
    data_dir: options.DataDir = Path("data"),
) -> None:
    """Download a data set and check it."""
    with user_errors():
        from nsopt.data.registry import fetch_data

        fetch_data(name, data_dir)
        console.print(f"{name} is in {data_dir}", highlight=False, soft_wrap=True)


@data_app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="A name that `nsopt data list` shows.")],
    data_dir: options.DataDir = Path("data"),
    image_size: options.ImageSize = None,
) -> None:
    """Read a data set as a study would, and say what is in it."""
    with user_errors():
        from nsopt.data.registry import load_data

        data = load_data(name, data_dir, image_size)
        validation = f"{len(data.validation)} validation, " if data.validation else ""
        console.print(
            f"{data.name}: {len(data.train)} training, {validation}{len(data.test)} test images, "
            f"{len(data.classes)} classes, {data.channels}x{data.image_size}x{data.image_size}",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    app()
