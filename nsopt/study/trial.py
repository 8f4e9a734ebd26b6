"""Run the trials of a method: it proposes the widths and says what a training starts from."""

from dataclasses import dataclass

from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial
from torch import nn

from nsopt.methods.base import Method
from nsopt.session.runner import TrialRunner
from nsopt.storage import trials
from nsopt.storage.trials import Point
from nsopt.study.laws import Laws
from nsopt.study.trained import train_base_network
from nsopt.training.outcome import Outcome


@dataclass(frozen=True, eq=False)
class MethodRunner(TrialRunner):
    """Runs the trials of a method."""

    laws: Laws
    method: Method

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler that proposes the widths of a trial."""
        point = trials.read_point(trial)
        return RandomSampler() if point is None else self.laws.find_sampler(self.method, point)

    def measure_extrapolation(self, point: Point) -> float | None:
        return self.laws.measure_extrapolation(self.method, point)

    def train(self, point: Point, widths: tuple[int, ...]) -> Outcome:
        """Train from scratch, or fine-tune inherited weights."""
        method, subject = self.method, self.session.subject
        if method.keeps_weights:
            return self.session.evaluate_start()
        checkpoint = self.session.find_checkpoint(point)
        if not method.inherits_weights:
            training = subject.settings.training_for(point.seed)
            return self.session.train(widths, training, checkpoint, point.label)
        trained = train_base_network(self.session, point.seed)

        def start() -> nn.Module:
            return method.start(subject.arch, widths, trained)

        fine_tuning = subject.settings.fine_tuning_for(point.seed)
        return self.session.train(widths, fine_tuning, checkpoint, point.label, start)
