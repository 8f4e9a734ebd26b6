"""The main job: `python -m nsopt.study` searches, trains, measures, stores and reports."""

from pathlib import Path
from typing import Annotated

import typer

from nsopt import options
from nsopt.console import user_errors
from nsopt.options import given

_METHODS = "uniform,morphnet,magnitude,neuralscale"


def study(
    arch: options.Arch = "vgg11",
    data: options.Data = "digits",
    data_dir: options.DataDir = Path("data"),
    image_size: options.ImageSize = None,
    classes: options.Classes = None,
    per_class: options.PerClass = None,
    methods: Annotated[
        str, typer.Option(help="Separated by commas; also neuralscale-iter1, ...")
    ] = _METHODS,
    ratios: options.Ratios = None,
    budgets: options.Budgets = None,
    metric: options.Metric = "params",
    seeds: Annotated[int | None, typer.Option(help="Trainings per point.", min=1)] = None,
    preset: options.PresetName = "smoke",
    pretrain_epochs: options.PretrainEpochs = None,
    prune_every: options.PruneEvery = None,
    filters_per_step: options.FiltersPerStep = None,
    iterations: options.Iterations = None,
    convergence: options.Convergence = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a training.", min=1)] = None,
    lr: options.LearningRate = None,
    eta: Annotated[
        float | None,
        typer.Option(help="Use Algorithm 3 as published, with this step size, for NeuralScale."),
    ] = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    storage: options.Storage = None,
    out: options.Out = None,
    tuned: Annotated[
        str | None,
        typer.Option(help="Tuning study whose best P or eta is used."),
    ] = None,
    tuned_storage: Annotated[
        str | None, typer.Option(help="Storage URL of --tuned, where it is not --storage.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes on this machine that share the work.", min=1)
    ] = 1,
) -> None:
    """Compare scaling methods at equal budgets. The same command again continues."""
    with user_errors():
        from nsopt.data.source import Source, Subset  # noqa: PLC0415  (keeps --help light)
        from nsopt.job import Job, run_study  # noqa: PLC0415

        both = given(lr=lr, batch_size=batch_size, device=device, precision=precision)
        search = given(
            pretrain_epochs=pretrain_epochs,
            prune_every=prune_every,
            filters_per_step=filters_per_step,
            iterations=iterations,
            convergence=convergence,
        )
        run_study(
            Job(
                arch=arch,
                source=Source(data, image_size, Subset(classes, per_class)),
                data_dir=data_dir,
                methods=methods,
                ratios=ratios,
                budgets=budgets,
                metric=metric,
                seeds=seeds,
                preset=preset,
                changes={
                    "": given(eta=eta),
                    "search": both | search,
                    "training": both | given(epochs=epochs),
                },
                storage=storage,
                out=out,
                workers=workers,
                tuned=tuned,
                tuned_storage=tuned_storage,
            )
        )


if __name__ == "__main__":
    typer.run(study)
