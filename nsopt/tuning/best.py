"""The best trial of a tuning study."""

from collections.abc import Iterable

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from nsopt.errors import NsoptError
from nsopt.storage import trials


def best_trial(study: Study) -> FrozenTrial:
    """Return the trial with the highest accuracy, as a mean over seeds, or the best eta.

    The best eta ends nearest to the budget, and within it if any does; of equal ones, after the
    fewest steps. Of equally good P, the smallest wins.

    Raises:
        NsoptError: if no trial completed.
    """
    done = trials.read_completed(study)
    if not done:
        reason = next(filter(None, map(trials.read_failure, study.trials)), "none ran")
        raise NsoptError(
            f"no trial of {study.study_name} completed ({reason}): give other settings, and "
            "another out= or storage="
        )
    if study.directions[0] == StudyDirection.MINIMIZE:
        return min(done, key=lambda t: (not trials.read_outcome(t)["feasible"], t.values))

    def mean_accuracy(trial: FrozenTrial) -> tuple[int, float]:
        same = scores_of(trial, done)
        return len(same), sum(same) / len(same)  # fewer seeds are no fair comparison

    return max(sorted(done, key=lambda t: t.params.get("pretrain_epochs", 0)), key=mean_accuracy)


def scores_of(trial: FrozenTrial, done: Iterable[FrozenTrial]) -> list[float]:
    """Return the scores of the completed trials with the parameters of `trial`, one per seed."""
    return [repeat.values[0] for repeat in done if repeat.params == trial.params]
