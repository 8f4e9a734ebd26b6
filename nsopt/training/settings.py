"""Settings of one training."""

from typing import Literal, Self

from pydantic import Field, model_validator

from nsopt.errors import NsoptError
from nsopt.settings import Fraction, SgdSettings


class TrainSettings(SgdSettings):
    """SGD with step decay; the defaults are the paper's for CIFAR (section 4).

    decay_after: fractions of the epochs after which the learning rate is multiplied by `decay`.
    schedule: `linear` lets it rise for `warmup_epochs` and then fall in a line to zero, instead of
    the steps. distillation: the part of the loss that asks for the outputs of a teacher; averaging:
    the decay, a step, of the running average of the weights that is evaluated and kept. None of
    these by default.
    """

    epochs: int = Field(300, ge=1)
    decay_after: tuple[Fraction, ...] = (1 / 3, 2 / 3, 5 / 6)
    decay: float = Field(0.1, gt=0, le=1)
    schedule: Literal["linear"] | None = None
    warmup_epochs: float | None = Field(None, ge=0)
    distillation: float | None = Field(None, gt=0, le=1)
    averaging: Fraction | None = None

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup_epochs is not None and self.schedule is None:
            raise NsoptError("warmup_epochs needs schedule = 'linear'")
        if (self.warmup_epochs or 0.0) >= self.epochs:
            raise NsoptError("warmup_epochs must be below epochs")
        return self

    @property
    def milestones(self) -> list[int]:
        """Epochs after which the learning rate falls."""
        return [max(1, round(fraction * self.epochs)) for fraction in self.decay_after]
