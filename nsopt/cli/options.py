"""Options that several commands share. Each is declared once: name, type, default, range, help.

A command holds these groups as fields. An option has the name of the setting that it changes
(`SearchSettings`, `TrainSettings`, `StudySettings`), which also knows its range and its help;
None keeps the preset's value.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from nsopt.cli.values import (
    Count,
    CountFrom2,
    GivenPath,
    MetricName,
    StorageOptions,
    StoredNetworkOptions,
    Whole,
    documented,
    read_rounding,
)
from nsopt.errors import NsoptError

if TYPE_CHECKING:
    from nsopt.session.presets import Preset

_OF_IMAGES = {
    *("data", "data_dir", "image_size", "split", "skip_corrupt", "no_mirror"),
    *("classes", "per_class", "mean", "std", "batch_size", "resized_crop"),
}


@dataclass(frozen=True, kw_only=True)
class DataDirOptions:
    """Where data sets are."""

    data_dir: Path = Path("data")
    """Folder of downloaded data sets."""


@Parameter(name="*", group="Network and data")
@dataclass(frozen=True, kw_only=True)
class ReadingOptions(DataDirOptions):
    """How images are read."""

    image_size: Count | None = None
    """Resize images to this side, in pixels. CIFAR keeps its 32."""
    split: float | None = None
    """Divide a folder of class folders without train/ and test/: train on this part of each class,
    such as 0.8, and test on the rest."""
    skip_corrupt: bool = False
    """Leave out the damaged images of a folder."""


@Parameter(name="*", group="Network and data")
@dataclass(frozen=True, kw_only=True)
class NetworkOptions(ReadingOptions):
    """The network, and what it is for."""

    arch: str = "vgg11"
    """Network: vgg11, resnet18-tied, ...; torchvision:NAME; timm:NAME; or package.module:factory, a
    function of yours that returns the network."""
    data: str = "digits"
    """Data set: a name that `nsopt data list` prints, or folder:PATH."""
    task: str | None = None
    """In place of images, a task of yours: package.module:function, a function that returns an
    nsopt.Task. The network is then a function of yours, too: --arch package.module:factory."""
    no_mirror: bool = False
    """Mirror no images in training: left and right matter, as in text. Digits never are."""
    classes: CountFrom2 | None = None
    """Use only this many classes, the first ones."""
    per_class: Count | None = None
    """Use only this many training images of each class, the first ones."""
    mean: str | None = None
    """Normalise pixels (from 0 to 1) with this mean per channel: 0.485,0.456,0.406. By default the
    mean of the training images."""
    std: str | None = None
    """Normalise pixels with this standard deviation per channel; give it together with --mean."""

    def check_names(self, *others: object) -> None:
        """Raise NsoptError for a misspelt network or data set, without importing torch."""
        from nsopt.data import source
        from nsopt.models import registry

        registry.check_name(self.arch)
        source.check_name(self.data)
        if self.task is not None:
            if not registry.is_own(self.arch):
                raise NsoptError(
                    f"{self.arch} is a network of images: with --task name a function of yours "
                    "that returns the network, --arch package.module:factory"
                )
            refuse_options_of_images(self, *others)


@Parameter(name="*", group="Network and data")
@dataclass(frozen=True, kw_only=True)
class TaskOptions(NetworkOptions):
    """The network, the images and the preset."""

    preset: Literal["smoke", "tiny", "quick", "fast", "paper"] | None = None
    """Settings of search and training: smoke (a check, minutes), tiny (an ordering of networks with
    a few thousand parameters, minutes on digits), quick (an ordering of methods at one size),
    fast (a short search, long trainings) or paper (the published protocol). By default smoke for
    digits, and quick for all other data."""

    def read_preset(self) -> "Preset":
        """Return the preset, by default that of the data."""
        from nsopt.session.presets import get_preset

        return get_preset(self.preset, self.task or self.data)


@Parameter(name="*", group="Budgets")
@dataclass(frozen=True, kw_only=True)
class RoundingOptions:
    """How widths are rounded."""

    multiple_of: str | None = None
    """Round widths down to multiples of this: 8, or by metric: latency=16,macs=8; auto: the
    multiple that the device computes fastest, measured once. `nsopt compress` chooses it by itself
    for budgets in milliseconds."""
    min_width: str | None = None
    """Smallest width of a layer: 16, or by metric: latency=16,macs=8."""

    @property
    def rounding(self) -> dict[str, Any]:
        """Return `multiple_of` and `min_width` as a study's settings. Raises NsoptError for invalid
        ones."""
        is_auto = self.multiple_of == "auto"
        multiple = None if is_auto else read_rounding("--multiple-of", self.multiple_of)
        return {
            "multiple_of": "auto" if is_auto else multiple,
            "min_width": read_rounding("--min-width", self.min_width),
        }


@Parameter(name="*", group="Budgets")
@dataclass(frozen=True, kw_only=True)
class SizeOptions(RoundingOptions):
    """The budgets, and how widths are rounded."""

    ratios: str | None = None
    """Budgets as width ratios: 0.25 is the cost of the network with a quarter of every width.
    Several: 0.25,2. By default study takes those of its preset (smoke 0.125,0.25, tiny 0.016,0.032,
    quick 0.25, fast 0.25 to 1, paper 0.25 to 2), widths 0.25,1, tune 0.25."""
    budgets: str | None = None
    """Budgets: 600k,2M, or 20ms with --metric latency, or 50% of what the network of base widths
    costs. Budgets that hold at once name their metrics: "params=250k,macs=20M"; a semicolon begins
    the next network. Replaces --ratios."""
    metric: MetricName = "params"
    """What a budget limits: parameters, multiply-accumulates (MACs) or milliseconds."""


@Parameter(name="*", group="Search")
@dataclass(frozen=True, kw_only=True)
@documented("pruning/settings.py")
class DescentOptions:
    """Settings of a search, except P."""

    prune_every: Whole | None = None
    filters_per_step: float | None = None
    price: Literal["filters", "params", "macs"] | None = None
    iterations: Whole | None = None
    convergence: float | None = None


@Parameter(name="*", group="Search")
@dataclass(frozen=True, kw_only=True)
@documented("pruning/settings.py")
class SearchOptions(DescentOptions):
    """Settings of a search."""

    pretrain_epochs: Whole | None = None


@Parameter(name="*", group="Training")
@dataclass(frozen=True, kw_only=True)
@documented("training/settings.py")
class TrainingOptions:
    """Settings of a training."""

    epochs: Whole | None = None
    schedule: Literal["linear", "steps"] | None = None
    distillation: float | None = None
    averaging: float | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """What they change in the settings of a training, where None switches something off."""
        given = _drop_none(vars(self))
        if self.schedule == "steps":
            given |= {"warmup_epochs": None, "schedule": None}
        off = [name for name in ("distillation", "averaging") if given.get(name) == 0]
        return given | dict.fromkeys(off)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where networks are computed."""

    device: str = "auto"
    """Device as PyTorch names it (cpu, cuda, cuda:1, ...), or auto."""


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(DeviceOptions):
    """Where networks are computed, and by how many threads."""

    threads: Annotated[Whole, Parameter(validator=Number(gte=1, lte=1024))] | None = None
    """CPU threads; by default one per core."""


@Parameter(name="*", group="Search and training")
@dataclass(frozen=True, kw_only=True)
@documented("settings.py")
class SgdOptions(DeviceOptions):
    """Settings of both searches and trainings."""

    lr: float | None = None
    batch_size: Whole | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Whole | None = None
    resized_crop: float | None = None


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """A user's own measurement."""

    measure: str | None = None
    """Time networks with this function of yours, package.module:function in the working directory.
    It gets a network and a batch of images and returns milliseconds, such as those of a phone."""


@Parameter(name="*", group="Latency")
@dataclass(frozen=True, kw_only=True)
class RuntimeOptions(MeasureOptions):
    """Where milliseconds come from."""

    runtime: Literal["torch", "onnxruntime"] | None = None
    """Time networks in PyTorch (the default) or in onnxruntime."""

    @property
    def chosen(self) -> str | None:
        """The name of what times networks, if the user gave one."""
        if self.runtime and self.measure:
            raise NsoptError("give --runtime or --measure, not both")
        return self.measure or self.runtime


@Parameter(name="*", group="Latency")
@dataclass(frozen=True, kw_only=True)
@documented("session/presets.py")
class TimingOptions(RuntimeOptions):
    """Where milliseconds come from, and for how many images."""

    latency_batch_size: Count | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """What they change in the settings of a study; None for nothing."""
        return {"runtime": self.chosen, "latency_batch_size": self.latency_batch_size}


@dataclass(frozen=True, kw_only=True)
@documented("session/presets.py")
class RepeatOptions:
    """How often networks are trained."""

    seeds: Whole | None = None


@dataclass(frozen=True, kw_only=True)
class WorkersOptions(RepeatOptions):
    """How often networks are trained, and by how many processes."""

    workers: Count = 1
    """Processes on this machine that share the work."""


@Parameter(name="*", group="Results")
@dataclass(frozen=True, kw_only=True)
class OutputOptions(StorageOptions):
    """Where results go."""

    out: GivenPath = None
    """Folder for the results; by default runs/ARCH-DATA-PRESET, of `nsopt compress`
    runs/ARCH-DATA-compress."""
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"])] = False
    """Print all settings."""


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """What every command that searches or trains takes."""

    task: TaskOptions = TaskOptions()
    sgd: SgdOptions = SgdOptions()
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(WorkOptions):
    """What every command that trains networks at budgets takes."""

    timing: TimingOptions = TimingOptions()
    sizes: SizeOptions = SizeOptions()
    training: TrainingOptions = TrainingOptions()


@dataclass(frozen=True, kw_only=True)
class StoredDataOptions(DataDirOptions, StoredNetworkOptions):
    """Where a stored study's network and images are on this machine."""

    data: str | None = None
    """folder:PATH, if the images are in another folder on this machine."""


def refuse_options_of_images(*groups: object) -> None:
    """Raise NsoptError if these options, given with --task, have one that only images use."""
    refuse_unused("with --task, which takes the place of images", _OF_IMAGES, *groups)


def refuse_unused(when: str, names: Iterable[str], *groups: object) -> None:
    """Raise NsoptError if options that have no effect here are given.

    Args:
        when: they have no effect: `with --law`.
        names: of their attributes.
        groups: of options, which may have them.
    """
    for group in groups:
        for name in sorted(vars(group).keys() & set(names)):
            if getattr(group, name) != getattr(type(group), name):
                raise NsoptError(f"--{name.replace('_', '-')} does nothing {when}: leave it out")


def split_words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _drop_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def changes(
    search: DescentOptions,
    training: TrainingOptions,
    sgd: SgdOptions,
    study: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """Return what these options change in a preset, in the form that `presets.override` takes.

    Args:
        study: changes of the study's own settings; None changes nothing.
    """
    return _drop_none(study) | {
        "search": _drop_none(vars(sgd) | vars(search)),
        "training": _drop_none(vars(sgd)) | training.changes,
    }
