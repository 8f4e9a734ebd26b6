"""How long searches and trainings of a session take, from a few timed steps."""

import math
from collections.abc import Callable
from functools import cache

from nsopt.data.images import ImageData
from nsopt.pruning.engine import PruneSchedule
from nsopt.pruning.iterations import is_complete
from nsopt.pruning.rules import make_rule, with_enough_steps
from nsopt.session.session import Session
from nsopt.settings import Price
from nsopt.storage import trials
from nsopt.tasks.batches import count_batches
from nsopt.training.precision import time_training_step
from nsopt.training.settings import TrainSettings

Widths = tuple[int, ...]


class Durations:
    """Durations of the work of a session, in seconds. A step of each network is timed once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        arch, data = session.subject.arch, session.subject.data
        self.time_step: Callable[[Widths, int], float] = cache(
            lambda widths, batch: time_training_step(arch, widths, batch, data, session.compute)
        )

    def estimate_search(self, price: Price, iterations: int) -> float:
        """Return the seconds of the missing iterations of a search.

        Raises:
            OutOfMemoryError: if a batch does not fit the device.
        """
        subject, base = self._session.subject, self._session.subject.arch.base_widths
        own = subject.settings.search.updated(price=price, iterations=iterations)
        study = self._session.studies().get(subject.search_kind(price))
        history = trials.read_iterations(study) if study else []
        if is_complete(history, own):
            return 0.0
        own = with_enough_steps(subject.arch, base, own)
        steps = make_rule(subject.arch, base, own).steps
        epoch = self._count_batches(own.batch_size, own.search_images)
        batches = PruneSchedule(steps, epoch, own).batches
        return (iterations - len(history)) * batches * self.time_step(base, own.batch_size)

    def estimate_training(self, settings: TrainSettings, widths: Widths) -> float:
        """Return the seconds of a training. Raises OutOfMemoryError as `estimate_search` does."""
        steps = settings.epochs * self._count_batches(settings.batch_size)
        return max(steps, settings.least_steps or 0) * self.time_step(widths, settings.batch_size)

    def _count_batches(self, batch_size: int, images: int | None = None) -> int:
        """Return the number of batches in an epoch, of so many training images if it is given."""
        subject = self._session.subject
        if not isinstance(subject.data, ImageData):
            return count_batches(subject.data.train)
        return math.ceil(len(subject.splits.with_train_images(images).train) / batch_size)


def format_duration(seconds: float) -> str:
    for length, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{max(1, round(seconds))} s"
