"""Settings of one training."""

from pydantic import Field

from nsopt.settings import Fraction, SgdSettings


class TrainSettings(SgdSettings):
    """SGD with step decay; the defaults are the paper's for CIFAR (section 4).

    decay_after: fractions of the epochs after which the learning rate is multiplied by `decay`.
    """

    epochs: int = Field(300, ge=1)
    decay_after: tuple[Fraction, ...] = (1 / 3, 2 / 3, 5 / 6)
    decay: float = Field(0.1, gt=0, le=1)

    @property
    def milestones(self) -> list[int]:
        """Epochs after which the learning rate falls."""
        return [max(1, round(fraction * self.epochs)) for fraction in self.decay_after]
