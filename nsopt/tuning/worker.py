"""One of the processes that work on a comparison: it runs what waits in its studies."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from nsopt.models.architecture import Architecture
from nsopt.pruning.record import Iteration
from nsopt.tuning import schema
from nsopt.tuning.methods import MAGNITUDE, curve_of, follows_law, is_ready
from nsopt.tuning.objective import Runner
from nsopt.tuning.queue import Watch, claim, run, unfinished
from nsopt.tuning.sampler import NeuralScaleSampler
from nsopt.tuning.settings import StudySettings
from nsopt.tuning.storage import load_studies


def curve_sampler(
    method: str,
    arch: Architecture,
    metric: str,
    settings: StudySettings,
    history: Sequence[Iteration],
) -> NeuralScaleSampler:
    """What proposes the widths of a method that follows a curve."""
    curve, eta = curve_of(method, arch, history), settings.eta if follows_law(method) else None
    return NeuralScaleSampler(curve, arch.cost(metric), arch.layer_names, eta=eta)


@dataclass(frozen=True, eq=False)
class Worker:
    """Works on the comparison `prefix` with any number of others.

    parent: a process without which it ends as soon as it has nothing to run.
    """

    storage: BaseStorage
    prefix: str
    runner: Runner
    parent: int | None = None
    _watch: Watch = field(default_factory=Watch)

    def work(self) -> int:
        """Run trials until none of the comparison waits or runs; how many it were.

        Methods that follow a law wait for their search, those of dead processes for their turn.
        """
        done, told = 0, False
        while True:
            studies = load_studies(self.storage, self.prefix)
            search = studies.pop(schema.SEARCH, None)
            history = schema.read_iterations(search) if search else []
            if self._run_one(studies, history):
                done += 1
                continue
            running = [self._watch.look(study) for study in studies.values()]
            if not any(unfinished(study) for study in studies.values()) or self._is_orphan():
                return done
            if not told:
                other = "training of another process" if any(running) else "search"
                self.runner.progress.message(f"waiting for the {other} to end")
                told = True
            self._watch.wait()

    def _run_one(self, studies: Mapping[str, Study], history: Sequence[Iteration]) -> bool:
        for method, study in studies.items():
            if is_ready(method, history, self.runner.settings):
                trial = claim(study, partial(self.sampler, method, history))
                if trial is not None:
                    run(trial, self.runner.run)
                    return True
        return False

    def sampler(self, method: str, history: Sequence[Iteration], trial: FrozenTrial) -> BaseSampler:
        """What proposes the widths of a trial."""
        point = schema.read_point(trial)
        if method == MAGNITUDE or point is None:
            return RandomSampler()
        return curve_sampler(method, self.runner.arch, point.metric, self.runner.settings, history)

    def _is_orphan(self) -> bool:
        return self.parent is not None and os.getppid() != self.parent
