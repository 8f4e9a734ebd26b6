"""Settings of one training."""

from typing import Annotated

from pydantic import Field

from nsopt.settings import Settings
from nsopt.training.device import Precision

Fraction = Annotated[float, Field(gt=0, lt=1)]


class TrainSettings(Settings):
    """SGD with step decay; the defaults are the paper's for CIFAR (section 4).

    decay_after: fractions of the epochs after which the learning rate is multiplied by `decay`;
    val_fraction: of the training images, held out for selection.
    """

    epochs: int = Field(300, ge=1)
    batch_size: int = Field(128, ge=2)
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.5, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    decay_after: tuple[Fraction, ...] = (1 / 3, 2 / 3, 5 / 6)
    decay: float = Field(0.1, gt=0, le=1)
    val_fraction: Fraction = 0.1
    seed: int = Field(0, ge=0)
    device: str = "auto"
    precision: Precision = "auto"

    @property
    def milestones(self) -> list[int]:
        """Epochs after which the learning rate falls."""
        return [max(1, round(fraction * self.epochs)) for fraction in self.decay_after]

    def lr_in(self, epoch: int) -> float:
        """The learning rate in `epoch`, counted from 0."""
        falls = sum(epoch >= milestone for milestone in self.milestones)
        return self.lr * self.decay**falls
