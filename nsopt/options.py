"""The options that commands share, with their help."""

from pathlib import Path
from typing import Annotated, Any

import typer

Arch = Annotated[str, typer.Option(help="Architecture, such as vgg11 or resnet18-tied.")]
Data = Annotated[str, typer.Option(help="A name that `nsopt data list` shows, or folder:PATH.")]
DataDir = Annotated[Path, typer.Option(help="Where downloaded data lies.")]
ImageSize = Annotated[
    int | None, typer.Option(help="Side that images are resized to, where they may be.", min=1)
]
Classes = Annotated[int | None, typer.Option(help="Only the first classes of the data.", min=2)]
PerClass = Annotated[
    int | None, typer.Option(help="Only the first training images of each class.", min=1)
]
Ratios = Annotated[
    str | None, typer.Option(help="Width ratios whose uniform networks set the budgets: 0.25,2.")
]
Budgets = Annotated[str | None, typer.Option(help="Budgets instead of ratios: 600k,2M.")]
Metric = Annotated[str, typer.Option(help="What a budget limits: params or macs.")]
PresetName = Annotated[str, typer.Option(help="Protocol: smoke, quick or paper.")]
PretrainEpochs = Annotated[int | None, typer.Option(help="P: epochs before pruning.", min=0)]
PruneEvery = Annotated[int | None, typer.Option(help="Q: mini-batches between prune steps.", min=1)]
FiltersPerStep = Annotated[
    int | None, typer.Option(help="Filters pruned in a step, over all layers.", min=1)
]
Iterations = Annotated[int | None, typer.Option(help="Iterations of architecture descent.", min=1)]
Convergence = Annotated[
    float | None,
    typer.Option(help="End descent when no width changes by more than this fraction.", min=0),
]
LearningRate = Annotated[float | None, typer.Option(help="Initial learning rate.")]
BatchSize = Annotated[int | None, typer.Option(help="Images a batch.", min=2)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]
Storage = Annotated[
    str | None, typer.Option(help="Optuna storage URL; by default a file in --out.")
]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the results; by default runs/ARCH-DATA-PRESET.")
]


def given(**options: Any) -> dict[str, Any]:
    """The options that a user set."""
    return {name: value for name, value in options.items() if value is not None}
