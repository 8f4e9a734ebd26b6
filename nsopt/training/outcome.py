"""What a training gave."""

from dataclasses import dataclass, field

from torch import nn

from nsopt.errors import NsoptError


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training.

    Attributes:
        train_loss: mean training loss.
        score: of the validation after the epoch; for images their accuracy (%).
        test_score: of the test after the epoch, likewise; None for a task without a test.
    """

    train_loss: float
    score: float
    test_score: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        widths: of the network, L integers.
        epochs: an `Epoch` each.
        kept: the epoch whose weights `model` has: the last one, or with `keep_best` the best one.
            Its `train_loss` is NaN if these are the weights that training began with.
        score: of the validation, with these weights; for images their accuracy (%).
        test_score: of the test, likewise; None for a task without a test.
        test_score_best_epoch: of the best epoch, selected on the test as in the paper; only for
            comparison.
        val_accuracy: `score` of a classifier of images.
        test_accuracy: `test_score` of a classifier of images.
        losses: mean training loss of every epoch.
        seconds: of training and evaluation, without interruptions.
        model: the trained network, on the device of the training.
    """

    widths: tuple[int, ...]
    epochs: tuple[Epoch, ...]
    seconds: float
    kept: Epoch
    model: nn.Module = field(repr=False, compare=False)

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(epoch.train_loss for epoch in self.epochs)

    @property
    def score(self) -> float:
        return self.kept.score

    @property
    def test_score(self) -> float | None:
        return self.kept.test_score

    @property
    def test_score_best_epoch(self) -> float | None:
        scores = [epoch.test_score for epoch in self.epochs if epoch.test_score is not None]
        return max(scores, default=None)

    @property
    def val_accuracy(self) -> float:
        return self.score

    @property
    def test_accuracy(self) -> float:
        """Raises NsoptError without a test."""
        if self.test_score is None:
            raise NsoptError("the task has no test: nsopt.Task(..., test=...)")
        return self.test_score


class Interrupted(KeyboardInterrupt):
    """A training was interrupted.

    Attributes:
        outcome: its best weights so far.
        planned: epochs of the whole training.
    """

    def __init__(self, outcome: Outcome, planned: int) -> None:
        super().__init__()
        self.outcome, self.planned = outcome, planned
