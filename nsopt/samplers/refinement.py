"""Learning around a law: TPE proposes how far each layer's width lies from the law's.

A perturbation is a shift of the logarithm of every layer's alpha (samplers/proposals.py). That of
an earlier trial follows from its widths, so that nothing but widths and values has to be stored,
and every process learns from the results of all.
"""

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nsopt.samplers.proposals import Shift

_NAME = "refinement"
_REACH = 3.0  # deviations to either side
_STARTUP_RESULTS = 10


class Refinement:
    """What is known at one budget.

    centre: the law's widths there, (L,); spread: standard deviation of the perturbations that are
    drawn at random, until there are enough results to learn from.
    """

    def __init__(
        self, centre: Sequence[int], spread: float, directions: Sequence[StudyDirection]
    ) -> None:
        reach = _REACH * spread
        self._centre = np.asarray(centre, dtype=np.float64)
        self._reach = reach
        self._space: dict[str, BaseDistribution] = {
            f"{i}": FloatDistribution(-reach, reach) for i in range(len(centre))
        }
        storage = InMemoryStorage()
        storage.create_new_study(list(directions), _NAME)
        self._inner = optuna.load_study(study_name=_NAME, storage=storage)
        self._known: set[int] = set()

    def learn(self, trial: FrozenTrial, widths: Sequence[int]) -> None:
        """Take in a trial that was completed or pruned, once."""
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        if trial.number in self._known or trial.state not in ended:
            return
        shift = np.log(np.asarray(widths) / self._centre).clip(-self._reach, self._reach)
        parameters = {f"{i}": float(value) for i, value in enumerate(shift)}
        self._inner.add_trial(
            create_trial(
                state=trial.state,
                values=trial.values,
                intermediate_values=trial.intermediate_values,
                params=parameters,
                distributions=self._space,
            )
        )
        self._known.add(trial.number)

    def propose(self, seed: int) -> Shift | None:
        """A shift (L,) that should do well; None where too little is known."""
        if len(self._known) < _STARTUP_RESULTS:
            return None
        self._inner.sampler = TPESampler(seed=seed, multivariate=True, n_startup_trials=0)
        trial = self._inner.ask(self._space)
        self._inner.tell(trial, state=TrialState.FAIL)
        return np.array([trial.params[name] for name in self._space])
