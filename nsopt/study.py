"""The main job: `python -m nsopt.study` searches, trains, measures, stores and reports."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nsopt.console import user_errors

DEFAULT_METHODS = "uniform,morphnet,magnitude,neuralscale"


def study(
    arch: Annotated[str, typer.Option(help="Architecture.")] = "vgg11",
    data: Annotated[
        str, typer.Option(help="digits, cifar10, cifar100, or folder:PATH (a folder or a zip).")
    ] = "digits",
    data_dir: Annotated[Path, typer.Option(help="Where downloaded data lies.")] = Path("data"),
    image_size: Annotated[
        int | None, typer.Option(help="Side that images of a folder are resized to.", min=1)
    ] = None,
    methods: Annotated[str, typer.Option(help="Separated by commas.")] = DEFAULT_METHODS,
    ratios: Annotated[
        str | None,
        typer.Option(help="Width ratios whose uniform networks set the budgets: 0.25,0.5."),
    ] = None,
    budgets: Annotated[
        str | None, typer.Option(help="Budgets instead of ratios, such as 600k,2M.")
    ] = None,
    metric: Annotated[str, typer.Option(help="What a budget limits: params or macs.")] = "params",
    seeds: Annotated[int | None, typer.Option(help="Trainings per point.", min=1)] = None,
    preset: Annotated[str, typer.Option(help="Protocol: smoke, quick or paper.")] = "smoke",
    pretrain_epochs: Annotated[
        int | None, typer.Option(help="P: epochs before pruning.", min=0)
    ] = None,
    prune_every: Annotated[
        int | None, typer.Option(help="Q: mini-batches between prune steps.", min=1)
    ] = None,
    filters_per_step: Annotated[
        int | None, typer.Option(help="Filters pruned in a step, over all layers.", min=1)
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Iterations of architecture descent.", min=1)
    ] = None,
    convergence: Annotated[
        float | None,
        typer.Option(help="End descent when no width changes by more than this fraction.", min=0),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a training.", min=1)] = None,
    lr: Annotated[
        float | None, typer.Option(help="Initial learning rate of search and training.")
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(help="Use Algorithm 3 as published, with this step size, for NeuralScale."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Of search and training.", min=2)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    storage: Annotated[
        str | None, typer.Option(help="Optuna storage URL; by default a file in --out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; by default runs/ARCH-DATA-PRESET.")
    ] = None,
) -> None:
    """Compare scaling methods at equal budgets. The same command again continues."""
    with user_errors():
        from nsopt.job import Job, run_job  # noqa: PLC0415  (keeps --help light)

        both = _given(lr=lr, batch_size=batch_size, device=device, precision=precision)
        search = _given(
            pretrain_epochs=pretrain_epochs,
            prune_every=prune_every,
            filters_per_step=filters_per_step,
            iterations=iterations,
            convergence=convergence,
        )
        run_job(
            Job(
                arch=arch,
                data=data,
                data_dir=data_dir,
                image_size=image_size,
                methods=methods,
                ratios=ratios,
                budgets=budgets,
                metric=metric,
                seeds=seeds,
                preset=preset,
                changes={
                    "": _given(eta=eta),
                    "search": both | search,
                    "training": both | _given(epochs=epochs),
                },
                storage=storage,
                out=out,
            )
        )


def _given(**options: Any) -> dict[str, Any]:
    """The options that a user set."""
    return {name: value for name, value in options.items() if value is not None}


if __name__ == "__main__":
    typer.run(study)
