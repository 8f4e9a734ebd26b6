"""The options that commands share, each declared once: name, type, default, range, help.

A command holds these groups as fields. Their names are those of the settings that they change
(`SearchSettings`, `TrainSettings`); None leaves a setting as the preset has it.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from nsopt.errors import NsoptError
from nsopt.study.processes import STORAGE_VARIABLE

Count = Annotated[int, Parameter(validator=Number(gte=1))]
CountFrom0 = Annotated[int, Parameter(validator=Number(gte=0))]
CountFrom2 = Annotated[int, Parameter(validator=Number(gte=2))]

_storage_variable = Parameter(env_var=STORAGE_VARIABLE)
StorageUrl = Annotated[str, _storage_variable]
OptionalStorageUrl = Annotated[str | None, _storage_variable]
StoredArch = Annotated[
    str | None,
    Parameter(help="What is stored must be of this network; needed for package.module:factory."),
]


@Parameter(name="*", group="Network and data")
@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What is searched and trained."""

    arch: str = "vgg11"
    """vgg11, resnet18-tied, ...; torchvision:NAME, timm:NAME or package.module:factory."""
    data: str = "digits"
    """A name that `nsopt data list` shows, or folder:PATH."""
    data_dir: Path = Path("data")
    """Where downloaded data lies."""
    image_size: Count | None = None
    """Side that images are resized to, where they may be."""
    classes: CountFrom2 | None = None
    """Only the first classes of the data."""
    per_class: Count | None = None
    """Only the first training images of each class."""
    mean: str | None = None
    """Mean of each channel that pixels from 0 to 1 are normalised by: 0.485,0.456,0.406; by
    default that of the training images."""
    std: str | None = None
    """Standard deviation of each channel, likewise."""
    preset: Literal["smoke", "quick", "fast", "paper"] = "smoke"
    """Protocol: everything that decides the numbers."""


@Parameter(name="*", group="Budgets")
@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """What networks may cost."""

    ratios: str | None = None
    """Width ratios whose uniform networks set the budgets: 0.25,2."""
    budgets: str | None = None
    """Budgets instead of ratios: 600k,2M, or 20ms where the metric is latency."""
    metric: Literal["params", "macs", "latency"] = "params"
    """What a budget limits."""
    multiple_of: str | None = None
    """Round widths down to multiples: 8, or by metric, latency=16,macs=8."""
    min_width: str | None = None
    """Narrowest layer: 16, or by metric."""

    @property
    def rounding(self) -> dict[str, Any]:
        """The settings of a study that say how widths are rounded; NsoptError for what is none."""
        return {
            "multiple_of": _rounding("--multiple-of", self.multiple_of),
            "min_width": _rounding("--min-width", self.min_width),
        }


@Parameter(name="*", group="Search")
@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Settings of a search but for P."""

    price: Literal["filters", "params", "macs", "latency"] | None = None
    """What importance is divided by: filters is the published search."""
    prune_every: Count | None = None
    """Q: mini-batches between prune steps."""
    filters_per_step: Annotated[float, Parameter(validator=Number(gt=0))] | None = None
    """Filters pruned in a step, over all layers: a number, or a fraction of those left."""
    importance_decay: Annotated[float, Parameter(validator=Number(gte=0, lt=1))] | None = None
    """What importance counts after a prune step that was measured before it: 0 for nothing."""
    search_images: Count | None = None
    """A search sees only about so many training images, as many of every class."""
    iterations: Count | None = None
    """Iterations of architecture descent."""
    convergence: Annotated[float, Parameter(validator=Number(gte=0))] | Literal["band"] | None = (
        None
    )
    """End descent when no width changes by more than this fraction, or when the proposal moves
    less than its uncertainty: band."""


@Parameter(name="*", group="Search")
@dataclass(frozen=True, kw_only=True)
class SearchOptions(PruneOptions):
    """Settings of a search."""

    pretrain_epochs: CountFrom0 | None = None
    """P: epochs before pruning."""


@Parameter(name="*", group="Training")
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Settings of a training."""

    epochs: Count | None = None
    """Epochs of a training."""
    schedule: Literal["linear"] | None = None
    """Let the learning rate fall in a line to zero, instead of in steps."""
    warmup_epochs: Annotated[float, Parameter(validator=Number(gte=0))] | None = None
    """Epochs in which it rises before, with --schedule linear."""
    distillation: Annotated[float, Parameter(validator=Number(gt=0, lte=1))] | None = None
    """Part of the loss that asks for the outputs of the network given with --start."""
    averaging: Annotated[float, Parameter(validator=Number(gt=0, lt=1))] | None = None
    """Evaluate and keep a running average of the weights, with this decay per step: 0.99."""


@Parameter(name="*", group="Search and training")
@dataclass(frozen=True, kw_only=True)
class SgdOptions:
    """Settings of searches and trainings alike."""

    lr: float | None = None
    """Initial learning rate."""
    batch_size: CountFrom2 | None = None
    """Images a batch."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products; auto is bf16 where that is fast."""
    seed: CountFrom0 | None = None
    """The first seed, 0 by default: of the search, and of the trainings that follow it."""
    resized_crop: float | None = None
    """Train on random resized crops of at least this part of an image, such as 0.35."""


@Parameter(name="*", group="Results")
@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Where results go."""

    storage: OptionalStorageUrl = None
    """Optuna storage URL; by default a file in --out."""
    out: Path | None = None
    """Folder of the results; by default runs/ARCH-DATA-PRESET."""
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"])] = False
    """Print all settings."""


def _rounding(option: str, text: str | None) -> int | dict[str, int] | None:
    """A number, or numbers by metric."""
    from nsopt.scaling.metric import get_metric

    if text is None:
        return None
    parts = [part.strip().rpartition("=") for part in text.split(",")]
    if not all(number.isdecimal() and int(number) for _, _, number in parts):
        raise NsoptError(f"{option} {text!r} is no width: write 8, or latency=16,macs=8")
    if parts[0][0] == "" and len(parts) == 1:
        return int(parts[0][2])
    return {get_metric(name.strip()).name: int(number) for name, _, number in parts}


def given(options: Any) -> dict[str, Any]:
    """The options of a group that are set, by name."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


def changes(
    search: PruneOptions, training: TrainingOptions, sgd: SgdOptions, **own: Any
) -> dict[str, dict[str, Any]]:
    """What these options change of a preset, as `presets.override` takes it.

    own: changes of the study's settings themselves; None for none.
    """
    return {
        "": {name: value for name, value in own.items() if value is not None},
        "search": given(sgd) | given(search),
        "training": given(sgd) | given(training),
    }
