"""Presets: all settings that decide the numbers of a study."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from nsopt.errors import NsoptError, unknown_name
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.metric import Metric
from nsopt.settings import BATCH_SIZE, Settings, Timed, checked
from nsopt.training.settings import TrainSettings

_Width = Annotated[int, Field(ge=1)]
_Multiple = _Width | tuple[_Width, ...]
Multiple = _Multiple | dict[str, _Multiple] | Literal["auto"]
MinWidth = _Width | dict[str, _Width]


class StudySettings(Settings):
    """Settings of a comparison. Two runs with equal settings may share a storage.

    The last three say which networks are compared, and decide no numbers.

    Attributes:
        search: of the search.
        training: of all trainings from scratch.
        magnitude_epochs: length of the training of the network that a method starts from.
        fine_tune_epochs: length of fine-tuning after magnitude pruning (Li et al.).
        fine_tune_lr: its constant learning rate.
        eta: step size of Algorithm 3, which then replaces the exact solver for fitted laws. It
            neither rounds widths nor limits them.
        multiple_of: round all proposed widths down to multiples of this, or by metric; a number, or
            one per layer; `auto` for the one that the device computes fastest, measured once. None
            for 1.
        min_width: the smallest proposed width, or by metric; None for 1.
        start: a trained network of base widths that all methods start from, and that is stored as
            its checksum; None to train from scratch.
        runtime: runs the networks that nsopt times: `torch`, `onnxruntime`, or a function that
            takes a network and a batch of images and returns milliseconds, see
            `nsopt.with_latency`; its name is `package.module:function`.
        latency_batch_size: images per timed batch, by default 100.
        ratios: width ratios whose uniform networks give the budgets, if there are no others.
        seeds: number of trainings at each budget, each with its own seed. Presets: smoke and
            quick 2, tiny 5, fast and paper 5; compress 1, and it keeps the best by validation.
        metric: what ratios, and budgets without a name, count: params, macs or latency.
    """

    preset: str
    search: SearchSettings
    training: TrainSettings
    magnitude_epochs: int = Field(ge=1)
    fine_tune_epochs: int = Field(ge=1)
    fine_tune_lr: float = Field(gt=0)
    eta: float | None = Field(default=None, gt=0)
    multiple_of: Multiple | None = None
    min_width: MinWidth | None = None
    start: Any = None
    runtime: str | Callable[..., Any] = "torch"
    latency_batch_size: int = Field(default=BATCH_SIZE, ge=1)
    ratios: tuple[float, ...] = Field(default=(), exclude=True)
    seeds: int = Field(default=1, ge=1, le=1_000_000, exclude=True)
    metric: Literal["params", "macs", "latency"] = Field(default="params", exclude=True)

    @model_validator(mode="after")
    def _check_eta(self) -> Self:
        if self.eta is not None and (self.multiple_of or self.min_width):
            raise NsoptError("Algorithm 3 takes no multiple_of or min_width: leave eta out")
        if self.eta is not None and self.start is not None:
            raise NsoptError(
                "Algorithm 3 may exceed the widths of the trained network: leave eta or start out"
            )
        return self

    @property
    def timed(self) -> Timed:
        return Timed(str(self.runtime), self.latency_batch_size)

    def rounding(self, metric: Metric) -> tuple[int | tuple[int, ...], int]:
        """Return multiple_of and min_width for budgets in a metric, for `solve_widths`."""
        return rounding_for(self.multiple_of, self.min_width, metric)

    def training_for(self, seed: int) -> TrainSettings:
        return self.training.updated(seed=seed)

    def base_training_for(self, seed: int) -> TrainSettings:
        """Return the settings for training the network of base widths that a method starts from."""
        return self.training.updated(seed=seed, epochs=self.magnitude_epochs)

    def fine_tuning_for(self, seed: int) -> TrainSettings:
        """Return the settings for fine-tuning weights that a method inherits."""
        if self.start is not None:
            return self.training_for(seed)
        return self.training.updated(
            seed=seed, epochs=self.fine_tune_epochs, lr=self.fine_tune_lr, decay_after=()
        )


@dataclass(frozen=True)
class Preset:
    """A named protocol. `question` is what its results answer."""

    question: str
    settings: StudySettings


def rounding_for(
    multiple_of: Multiple | None, min_width: MinWidth | None, metric: Metric
) -> tuple[int | tuple[int, ...], int]:
    """Return multiple_of and min_width for budgets in a metric.

    Budgets in several metrics at once are rounded as all of them are.
    """
    multiples, narrowest = (
        [_round_for(rounding, part.name) for part in metric.parts]
        for rounding in (multiple_of, min_width)
    )
    common = np.lcm.reduce(np.broadcast_arrays(*multiples)).tolist()
    return common if isinstance(common, int) else tuple(common), max(narrowest)


def _round_for(rounding: Any, metric: str) -> Any:
    if isinstance(rounding, dict):
        return rounding.get(metric, 1)
    return rounding or 1


_PAPER_VAL_FRACTION = 0.02  # the paper holds nothing out; selection needs something

# A fifteenth of the images that the published search sees on CIFAR-10, for a law hardly farther
# from its law than that of another such search: studies/search-economy. A search learns more from
# few images that it sees often than from many that it sees seldom. Steps take a fraction of the
# filters, so that networks of all sizes have about as many steps.
_SHORT_SEARCH = SearchSettings(
    search_images=9_000,
    pretrain_epochs=18,
    prune_every=10,
    filters_per_step=0.045,
    iterations=1,
    batch_size=128,
    lr=0.05,
)

_PAPER = Preset(
    question="The paper's protocol (Lee & Lee, CVPR 2020, section 4).",
    settings=StudySettings(
        preset="paper",
        ratios=(0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
        seeds=5,
        search=SearchSettings(val_fraction=_PAPER_VAL_FRACTION),
        training=TrainSettings(val_fraction=_PAPER_VAL_FRACTION),
        magnitude_epochs=300,
        fine_tune_epochs=40,
        fine_tune_lr=0.001,
    ),
)

_SMOKE = StudySettings(
    preset="smoke",
    ratios=(0.125, 0.25),
    seeds=2,
    search=_SHORT_SEARCH.updated(
        search_images=None, pretrain_epochs=1, prune_every=2, filters_per_step=160, batch_size=32
    ),
    training=TrainSettings(epochs=2, batch_size=32, lr=0.02),
    magnitude_epochs=1,
    fine_tune_epochs=2,
    fine_tune_lr=0.002,
)

_PRESETS = {
    "smoke": Preset(
        question="Does everything run here? Too short to rank methods.",
        settings=_SMOKE,
    ),
    "tiny": Preset(
        question="Which widths are worth most in networks of a few thousand parameters?",
        settings=_SMOKE.updated(
            preset="tiny",
            ratios=(0.016, 0.032),
            seeds=5,
            search=_SMOKE.search.updated(prune_every=3, filters_per_step=80, batch_size=64),
            training=_SMOKE.training.updated(epochs=8),
            magnitude_epochs=3,
        ),
    ),
    "quick": Preset(
        question="Which method is ahead at a small size? About an hour on two cores for CIFAR-10.",
        settings=StudySettings(
            preset="quick",
            ratios=(0.25,),
            seeds=2,
            search=_SHORT_SEARCH,
            training=TrainSettings(epochs=12, lr=0.05),
            magnitude_epochs=5,
            fine_tune_epochs=4,
            fine_tune_lr=0.005,
        ),
    ),
    "fast": replace(
        _PAPER,
        question="How good are widths of a search of minutes after trainings as in the paper?",
        settings=_PAPER.settings.updated(
            preset="fast",
            ratios=(0.25, 0.5, 0.75, 1.0),
            search=_SHORT_SEARCH,
            training=TrainSettings(),
        ),
    ),
    "paper": _PAPER,
    "compress": Preset(
        question="How small can a trained network become?",
        settings=StudySettings(
            preset="compress",
            ratios=(0.5,),
            seeds=1,
            search=_SHORT_SEARCH.updated(pretrain_epochs=0, prune_every=None),
            training=TrainSettings(
                optimizer="adamw",
                epochs=10,
                batch_size=64,
                lr=0.003,
                momentum=0.9,
                schedule="linear",
                warmup_epochs=0.5,
                distillation=0.5,
                averaging=0.99,
                least_steps=200,
                keep_best=True,
            ),
            magnitude_epochs=1,
            fine_tune_epochs=1,
            fine_tune_lr=0.02,
        ),
    ),
}


def _adapt_to_tiny_imagenet(preset: Preset, **search: Any) -> Preset:
    """Return a preset with the paper's trainings for Tiny ImageNet, and changes of its search."""
    settings = preset.settings
    return replace(
        preset,
        settings=settings.updated(
            ratios=(0.25, 0.5, 0.75, 1.0),
            search=settings.search.updated(**search),
            training=settings.training.updated(epochs=150, decay_after=(1 / 3, 2 / 3)),
            magnitude_epochs=150,
            fine_tune_epochs=20,
        ),
    )


_TINY_IMAGENET_PRESETS = {
    "paper": _adapt_to_tiny_imagenet(_PRESETS["paper"], prune_every=100),
    "fast": _adapt_to_tiny_imagenet(_PRESETS["fast"]),
}


@checked
def get_preset(name: str | None, data: str = "") -> Preset:
    """Return a preset for a data set. The paper uses other settings for Tiny ImageNet.

    Args:
        name: of the preset; None for `smoke` on digits, which only check that all runs, and for
            `quick` on other data.
        data: name of the data set.

    Raises:
        NsoptError: for an unknown preset.

    Examples:
        >>> settings = nsopt.get_preset("compress").settings.updated(multiple_of=8)
        >>> settings = settings.updated(training=settings.training.updated(lr=0.001, device="cpu"))
        >>> result = nsopt.compress(model, data, ["macs=50%"], settings=settings)
    """
    if name is None:
        name = "smoke" if data == "digits" else "quick"
    if name not in _PRESETS:
        raise unknown_name("preset", name, _PRESETS)
    if data == "tiny-imagenet":
        return _TINY_IMAGENET_PRESETS.get(name, _PRESETS[name])
    return _PRESETS[name]


def override(settings: StudySettings, changes: dict[str, Any]) -> StudySettings:
    """Return a copy with changes by name; those of `search` and `training` are dicts again."""
    search = settings.search.updated(**changes.get("search", {}))
    training = settings.training.updated(**changes.get("training", {}))
    return settings.updated(**{**changes, "search": search, "training": training})
