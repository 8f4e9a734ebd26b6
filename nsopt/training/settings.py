"""Settings of one training."""

from typing import Literal, Self

from pydantic import Field, model_validator

from nsopt.errors import NsoptError
from nsopt.settings import Fraction, SgdSettings


class TrainSettings(SgdSettings):
    """Settings of a training; the defaults are the paper's for CIFAR (section 4).

    It has the settings of `SgdSettings`, too: batch size, learning rate, seed, device and others.

    Attributes:
        optimizer: `sgd`, or `adamw`, whose first beta is `momentum`. AdamW's steps do not depend on
            the scale of the loss; it takes smaller learning rates.
        epochs: passes over the training images; 0 only for a compression, which then fits networks
            to the trained one without training. Presets: smoke 2, tiny 8, quick 12, fast and
            paper 300, compress 10.
        decay_after: fractions of the epochs after which the learning rate is multiplied by `decay`.
        decay: see `decay_after`.
        schedule: `linear` decreases the learning rate linearly to zero, as compress does, instead
            of in steps.
        warmup_epochs: epochs in which a linear schedule first increases it.
        distillation: weight of a teacher's outputs in the loss, from 0 to 1; None, on the command
            line 0, for no teacher.
        averaging: evaluate and keep an EMA of the weights, with this decay per step,
            such as 0.99; None, on the command line 0, for none.
        least_steps: number of steps below which training adds epochs; few images then still train
            long enough.
        keep_best: return the weights of the epoch with the best validation score, or those that
            training began with if they are better, instead of the last ones.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    epochs: int = Field(default=300, ge=0)
    decay_after: tuple[Fraction, ...] = (1 / 3, 2 / 3, 5 / 6)
    decay: float = Field(default=0.1, gt=0, le=1)
    schedule: Literal["linear"] | None = None
    warmup_epochs: float | None = Field(default=None, ge=0)
    distillation: float | None = Field(default=None, gt=0, le=1)
    averaging: Fraction | None = None
    least_steps: int | None = Field(default=None, ge=1)
    keep_best: bool = False

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup_epochs is not None and self.schedule is None:
            raise NsoptError("warmup_epochs needs schedule = 'linear'")
        if self.epochs and (self.warmup_epochs or 0.0) >= self.epochs:
            raise NsoptError("warmup_epochs must be below epochs")
        return self

    @property
    def milestones(self) -> list[int]:
        """Numbers of epochs after which the learning rate falls."""
        return [max(1, round(fraction * self.epochs)) for fraction in self.decay_after]
