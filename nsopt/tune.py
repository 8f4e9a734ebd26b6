"""The options of `nsopt tune`."""

from pathlib import Path
from typing import Annotated

import typer

from nsopt import options
from nsopt.console import user_errors
from nsopt.options import given

# Imports inside the command keep `nsopt --help` light.
# ruff: noqa: PLC0415


def tune(
    over: Annotated[str, typer.Option(help="pretrain-epochs, eta or both.")] = "pretrain-epochs",
    objective: Annotated[
        str, typer.Option(help="pareto (accuracy and search seconds), or accuracy alone.")
    ] = "pareto",
    pruner: Annotated[
        str, typer.Option(help="With accuracy alone: hyperband or asha ends bad trainings.")
    ] = "hyperband",
    trials: Annotated[int, typer.Option(help="Trials of eta and both.", min=1)] = 30,
    pretrain_epochs: Annotated[
        str | None, typer.Option(help="Values of P to try; by default 0,2,5,10,30,60.")
    ] = None,
    arch: options.Arch = "vgg11",
    data: options.Data = "digits",
    data_dir: options.DataDir = Path("data"),
    image_size: options.ImageSize = None,
    classes: options.Classes = None,
    per_class: options.PerClass = None,
    ratios: Annotated[
        str | None, typer.Option(help="Width ratio whose uniform network sets the budget.")
    ] = None,
    budgets: Annotated[str | None, typer.Option(help="The budget instead: 600k.")] = None,
    metric: options.Metric = "params",
    seeds: Annotated[int | None, typer.Option(help="Trials per value of P.", min=1)] = None,
    preset: options.PresetName = "smoke",
    prune_every: options.PruneEvery = None,
    filters_per_step: options.FiltersPerStep = None,
    iterations: options.Iterations = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a training.", min=1)] = None,
    lr: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    storage: options.Storage = None,
    out: options.Out = None,
) -> None:
    """Tune P, the epochs before pruning, and eta, the step size of Algorithm 3."""
    with user_errors():
        from nsopt.data.source import Source, Subset
        from nsopt.job import Job
        from nsopt.tuning_job import run_tune

        both = given(lr=lr, batch_size=batch_size, device=device, precision=precision)
        search = given(
            prune_every=prune_every, filters_per_step=filters_per_step, iterations=iterations
        )
        job = Job(
            arch=arch,
            source=Source(data, image_size, Subset(classes, per_class)),
            data_dir=data_dir,
            preset=preset,
            changes={"search": both | search, "training": both | given(epochs=epochs)},
            storage=storage,
            out=out,
            ratios=ratios or (None if budgets else "0.25"),
            budgets=budgets,
            metric=metric,
            seeds=seeds,
        )
        run_tune(job, over, objective, pruner, trials, pretrain_epochs)
